"""A fake runtime for an engine in a process of its own: it blocks on SIGUSR1 and goes on with SIGUSR2."""

import signal
from collections.abc import Callable

from service.runtimes.fake import FakeRuntime
from service.settings import Settings

_made: list[FakeRuntime] = []


def make(settings: Settings) -> FakeRuntime:
    runtime = FakeRuntime(lanes=1, max_batch=settings.sessions)
    _made.append(runtime)
    return runtime


def _tell(order: Callable[[FakeRuntime], None]) -> None:
    for runtime in _made:
        order(runtime)


# Here and not where one is made: a bundle's runtime is made in a thread, and the process imports this in its first one.
signal.signal(signal.SIGUSR1, lambda *_: _tell(FakeRuntime.block))
signal.signal(signal.SIGUSR2, lambda *_: _tell(FakeRuntime.release))
