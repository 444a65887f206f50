"""Runs the application until it is told to stop, and then lets it finish what it has accepted."""

import asyncio
import os
import shlex
import socket
import sys
import time
from enum import IntEnum
from types import FrameType
from typing import Final, Literal, cast

import structlog
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.logs import configure_logs
from service.runtimes.protocol import Runtime
from service.settings import Settings
from service.station import Station

log = structlog.get_logger(__name__)

_BACKLOG: Final = 2048
_CLOSING_S: Final = 2
"""Time for last answers to reach their clients once every inspection is answered or refused."""


class ExitCode(IntEnum):
    """What `serve` ends with."""

    OK = 0
    CANNOT_START = 4
    """Bundle missing, altered or not answering as validated; or the records cannot be opened."""
    ADDRESS_TAKEN = 6
    DRAIN_CUT_SHORT = 5
    """Something was not finished within the grace time, or when a second signal came."""


def serve(settings: Settings, runtime: Runtime | None = None) -> ExitCode:
    """Serve until SIGTERM or SIGINT; to be called from the main thread.

    Prints the address and a line to try on standard output once inspections are accepted; logs and errors go to
    standard error.
    """
    configure_logs(settings.log_format, settings.log_level)
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        taken = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        print(f"error: {taken}; stop what uses it, or choose another port (ATSNET_PORT)", file=sys.stderr)  # noqa: T201
        return ExitCode.ADDRESS_TAKEN
    app = create_app(settings, runtime)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSING_S,
    )
    with listener:
        return asyncio.run(_run(config, listener, settings))


class _Server(uvicorn.Server):
    """uvicorn's server, but the signals are ours: it would stop listening at the first one."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop = asyncio.get_running_loop()
        self.up = asyncio.Event()
        self.told_to_stop = asyncio.Event()
        self.told_to_hurry = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        event = self.told_to_hurry if self.told_to_stop.is_set() else self.told_to_stop
        self._loop.call_soon_threadsafe(event.set)


async def _run(config: uvicorn.Config, listener: socket.socket, settings: Settings) -> ExitCode:
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    up = asyncio.create_task(server.up.wait())
    await asyncio.wait({serving, up}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    state = cast("FastAPI", config.app).state
    station: Station = state.station
    told_to_stop = asyncio.create_task(server.told_to_stop.wait())
    await asyncio.wait({state.started, told_to_stop}, return_when=asyncio.FIRST_COMPLETED)
    hurry = asyncio.create_task(server.told_to_hurry.wait())
    code = ExitCode.OK
    closing_s = settings.grace_seconds
    if state.started.done() and state.started.exception() is not None:
        print(f"error: {state.started.exception()}", file=sys.stderr)  # noqa: T201
        told_to_stop.cancel()
        code = ExitCode.CANNOT_START
    else:
        if state.started.done():
            print(_announcement(station, listener), flush=True)  # noqa: T201
        await told_to_stop
        told = time.monotonic()
        if not await _drain(station, hurry, settings.grace_seconds):
            code = ExitCode.DRAIN_CUT_SHORT
        closing_s -= time.monotonic() - told
    server.should_exit = True
    # However great the hurry, last answers need their time to reach the clients.
    await asyncio.wait({serving}, timeout=_CLOSING_S + 1)
    await asyncio.wait({serving, hurry}, timeout=max(0, closing_s), return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        # A runtime that hangs cannot be joined, not even by the interpreter's end. Every answered verdict is on disk.
        log.error("stop_cut_short")
        sys.stderr.flush()
        os._exit(ExitCode.DRAIN_CUT_SHORT)
    serving.result()
    hurry.cancel()
    return code


async def _drain(station: Station, hurry: asyncio.Task[Literal[True]], grace_s: float) -> bool:
    """Let accepted inspections finish; whether all of them did, within the grace time and before there was a hurry."""
    # Still listening: whoever asks learns from /readyz and from refusals that this station is going.
    station.begin_drain()
    idle = asyncio.create_task(station.idle())
    done, _ = await asyncio.wait({idle, hurry}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    if idle in done:
        return True
    log.error("drain_cut_short", unanswered=station.in_flight)
    station.abandon()
    return False


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: The address is taken, or is none of this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every connection: head and body of an answer are two writes, and 40 ms would lie between them.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _announcement(station: Station, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    base = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
    bundle = station.equipment.bundle
    samples = bundle.manifest.golden_samples
    shown = next((sample for sample in samples if sample.verdict == "fail"), samples[0])
    path = shlex.quote(f"@{bundle.file(shown.image)}")
    return (
        f"ATS-Net inspects at {base} with {station.settings.bundle}; Ctrl-C stops it.\n"
        f"  documentation   {base}/docs\n"
        f"  a part to try   curl -sS --data-binary {path} {base}/v1/inspections"
    )
