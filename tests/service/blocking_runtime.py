"""A fake runtime for an engine in a process of its own: it blocks on SIGUSR1 and goes on with SIGUSR2."""

import signal

from service.runtimes.fake import FakeRuntime
from service.settings import Settings


def make(settings: Settings) -> FakeRuntime:
    runtime = FakeRuntime(lanes=1, max_batch=settings.sessions)
    signal.signal(signal.SIGUSR1, lambda *_: runtime.block())
    signal.signal(signal.SIGUSR2, lambda *_: runtime.release())
    return runtime
