"""Starts the engine and the workers, connects them, starts again what dies, and stops all of them in order."""

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from service.engine.channel import Channel, socket_pair
from service.exit_code import ExitCode
from service.settings import Settings

log = structlog.get_logger(__name__)

Role = Literal["engine", "worker"]

_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 10.0
_STEADY_S: Final = 30.0
"""A process that ran this long was well: its next end is the first one again."""
_CLOSING_S: Final = 5.0
"""Time for the workers to end, beyond the grace time for what they have accepted."""
_FLUSHING_S: Final = 2.0
"""Time for the engine to end, at least; once the workers have, nobody waits for it."""
_LAST_WORDS_S: Final = 0.5
_LOOK_S: Final = 0.5
_SILENT_S: Final = 5.0
"""A process that says nothing for so long, and for `hang_seconds`, is taken for hung; a busy machine may stall one."""


class _Child:
    """One process, and the line to it."""

    def __init__(
        self, role: Role, name: str, process: Process, line: socket.socket, on_up: Callable[["_Child"], None]
    ) -> None:
        self.role = role
        self.name = name
        self.process = process
        self.started = self.last_beat = time.monotonic()
        self.up = asyncio.Event()
        self.sample: Path | None = None
        self.failure: str | None = None
        self._on_up = on_up
        self._silent = asyncio.Event()
        self.channel = Channel(line, on_note=self._on_note, on_end=self._silent.set)

    def order(self, what: str, **more: Any) -> None:
        """Tell it to do something."""
        self.channel.note({"do": what, **more})

    async def last_words(self) -> None:
        """Wait until what it said before it ended is read: the system tells of its end first."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._silent.wait(), _LAST_WORDS_S)

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self.process.kill()

    def _on_note(self, note: dict[str, Any], _: list[int]) -> None:
        self.last_beat = time.monotonic()
        if "failed" in note:
            self.failure = note["failed"]
        elif "up" in note:
            self.sample = None if note["up"] is None else Path(note["up"])
            self.up.set()
            self._on_up(self)


class Supervisor:
    """Runs one engine and `settings.worker_count` workers on one listening socket.

    Args:
        settings: How to set them up.
        listener: Where the workers accept connections.
        runtime: `module:function` that makes the engine's runtime; as the settings say if not given.
        announce: Told, once all are up, where a golden sample is to try.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        runtime: str | None,
        announce: Callable[[Path | None], None],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._runtime = runtime
        self._announce = announce
        self._engine: _Child | None = None
        self._workers: dict[int, _Child] = {}
        self._restarts = {"engine": 0, "worker": 0}
        self._restarting: set[str] = set()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._serving = False
        """Whether all were up once; until then a process that ends is a start that failed."""
        self._failure: str | None = None

    async def run(self) -> ExitCode:
        """Serve until SIGTERM or SIGINT; a second one does not wait."""
        loop = asyncio.get_running_loop()
        for told in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(told, self._on_signal)
        kept = [asyncio.create_task(self._keep_engine())]
        kept += [asyncio.create_task(self._keep_worker(index)) for index in range(self._settings.worker_count)]
        watching = asyncio.create_task(self._watch())
        code = await self._drain(kept) if await self._start() else ExitCode.CANNOT_START
        self._stop.set()
        for child in self._children():
            child.kill()
        await asyncio.gather(*kept)
        watching.cancel()
        if code is ExitCode.CANNOT_START:
            print(f"error: {self._failure}", file=sys.stderr)  # noqa: T201
        log.info("stopped")
        return code

    def _on_signal(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _children(self) -> list[_Child]:
        return [*self._workers.values(), *([] if self._engine is None else [self._engine])]

    async def _start(self) -> bool:
        """Wait until all are up, or the service is told to stop; whether none failed."""
        while not self._stop.is_set():
            children = self._children()
            if len(children) == self._settings.worker_count + 1 and all(child.up.is_set() for child in children):
                self._serving = True
                assert self._engine is not None
                self._announce(self._engine.sample)
                await self._stop.wait()
                break
            await asyncio.sleep(0.01)
        return self._failure is None

    async def _drain(self, kept: list[asyncio.Task[None]]) -> ExitCode:
        """Stop the workers, which finish what they have accepted, and then the engine."""
        log.info("draining")
        told = time.monotonic()
        # The workers still accept, to refuse; once the last of them ends, nobody shall wait here for nobody.
        self._listener.close()
        workers, engine = list(self._workers.values()), self._engine
        for worker in workers:
            worker.order("stop")
        hurrying = asyncio.create_task(self._hurry_workers(workers))
        await asyncio.wait(kept[1:], timeout=self._settings.grace_seconds + _CLOSING_S)
        hurrying.cancel()
        if engine is not None:
            engine.order("stop")
            left_s = 0 if self._hurry.is_set() else self._settings.grace_seconds - (time.monotonic() - told)
            await asyncio.wait(kept[:1], timeout=max(_FLUSHING_S, left_s))
        ended = [child.process.returncode for child in (*workers, *([engine] if engine else []))]
        return ExitCode.OK if all(code == 0 for code in ended) else ExitCode.DRAIN_CUT_SHORT

    async def _hurry_workers(self, workers: list[_Child]) -> None:
        await self._hurry.wait()
        for worker in workers:
            worker.order("hurry")

    async def _keep_engine(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stop.is_set():
            self._engine = engine = await self._spawn("engine", "engine")
            for worker in self._workers.values():
                self._connect(engine, worker)
            delay_s = await self._outlive(engine, delay_s)
            self._engine = None

    async def _keep_worker(self, index: int) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stop.is_set():
            self._workers[index] = worker = await self._spawn("worker", f"worker-{index}")
            if self._engine is not None:
                self._connect(self._engine, worker)
            delay_s = await self._outlive(worker, delay_s)
            del self._workers[index]

    async def _spawn(self, role: Role, name: str) -> _Child:
        descriptors = [os.dup(self._listener.fileno())] if role == "worker" else []
        ours, theirs = socket_pair()
        with theirs:
            process = await self._execute(role, theirs.fileno())
        child = _Child(role, name, process, ours, self._on_up)
        setup = {"name": name, "settings": self._settings.model_dump(mode="json"), "runtime": self._runtime}
        child.channel.note(setup, descriptors)
        self._tell(child)
        log.info("process_started", name=name, pid=process.pid)
        if self._stop.is_set():  # told so while this one was being made
            child.order("stop")
        return child

    async def _execute(self, role: Role, line: int) -> Process:
        while True:
            try:
                return await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "service.engine", role, str(line)),
                    pass_fds=[line],
                    stdin=asyncio.subprocess.DEVNULL,
                    # The same packages as here, wherever this process found them.
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    # A Ctrl-C at the terminal is told to this process alone.
                    process_group=0,
                )
            except OSError as error:  # no memory or too many processes, for now
                log.error("process_not_started", role=role, reason=str(error))
                await asyncio.sleep(_LONGEST_DELAY_S)

    def _on_up(self, child: _Child) -> None:
        self._restarting.discard(child.name)
        for other in self._children():
            self._tell(other)

    def _tell(self, child: _Child) -> None:
        child.order("know", restarts=self._restarts, restarting=sorted(self._restarting))

    def _connect(self, engine: _Child, worker: _Child) -> None:
        engines, workers = socket_pair()
        engine.channel.note({"do": "connect"}, [engines.detach()])
        worker.channel.note({"do": "connect"}, [workers.detach()])

    async def _outlive(self, child: _Child, delay_s: float) -> float:
        """Wait for the end of a process, and then until it may be started again; the next wait's length."""
        code = await child.process.wait()
        await child.last_words()
        child.channel.close()
        if self._stop.is_set():
            return delay_s
        reason = child.failure or f"the {child.name} process ended with {_ending(code)}"
        log.error("process_ended", name=child.name, pid=child.process.pid, reason=reason)
        if not self._serving:
            self._failure = reason
            self._stop.set()
            return delay_s
        self._restarts[child.role] += 1
        self._restarting.add(child.name)
        for other in self._children():
            if other is not child:
                self._tell(other)
                if child.role == "engine":
                    other.order("failed", reason=reason)
        if time.monotonic() - child.started > _STEADY_S:
            delay_s = _FIRST_DELAY_S
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay_s)
        return min(2 * delay_s, _LONGEST_DELAY_S)

    async def _watch(self) -> None:
        """Kill whatever has been up and no longer says that it lives."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for child in self._children():
                silent_s = time.monotonic() - child.last_beat
                if child.up.is_set() and silent_s > max(_SILENT_S, self._settings.hang_seconds):
                    log.critical("process_hangs", name=child.name, pid=child.process.pid, seconds=round(silent_s, 1))
                    child.kill()


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
