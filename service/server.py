"""Runs the application until it is told to stop, and then lets it finish what it has accepted."""

import asyncio
import gc
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog
import uvicorn
from fastapi import FastAPI

from service.engine.supervisor import Supervisor
from service.exit_code import ExitCode
from service.logs import configure_logs
from service.security.gate import make_gate
from service.security.pixel_limit import limit_opencv
from service.security.policy import Policy, check
from service.security.slow_clients import Patience, close_slow_connections, watched_protocol
from service.settings import Settings, SettingsError, unknown_variables

if TYPE_CHECKING:
    from service.front import Front
    from service.runtimes.protocol import Runtime

log = structlog.get_logger(__name__)

_BACKLOG: Final = 2048
_AT_ONCE: Final = 32
_OTHER_BUNDLE: Final = (
    "  not with {asked}: another one was active last, says {var}\n"
    "  to change that  POST /v1/models/{asked}/activate, or start with a new --var\n"
)
_CLOSING_S: Final = 2
"""Time for last answers to reach their clients once every inspection is answered or refused."""


def serve(settings: Settings, runtime: "Runtime | None" = None, *, engine_runtime: str | None = None) -> ExitCode:
    """Serve until SIGTERM or SIGINT; to be called from the main thread.

    Prints the address and a line to try on standard output once inspections are accepted; logs and errors go to
    standard error.

    Args:
        settings: How to set it up; more than one worker makes the engine a process of its own.
        runtime: What runs the network with one worker; as the settings say if not given.
        engine_runtime: The same with more: `module:function`, which is called with the settings in that process.
    """
    configure_logs(settings.log_format, settings.log_level)
    for name, nearest in unknown_variables(os.environ):
        log.warning("unknown_variable", variable=name, did_you_mean=nearest, detail="no setting has that name")
    if not limit_opencv(settings.max_pixels):
        log.warning("opencv_limit_too_late", detail="OpenCV had been loaded before; only the header's check holds")
    try:
        policy = check(settings, settings.host)
        gate = make_gate(settings, policy)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return ExitCode.CANNOT_START
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        taken = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; stop what uses it"
        print(f"error: {taken}, or choose another port (--port, ATSNET_PORT; PORT= of make)", file=sys.stderr)  # noqa: T201
        return ExitCode.ADDRESS_TAKEN

    def announce(sample: Path | None) -> None:
        print(_announcement(settings, policy, listener, sample), flush=True)  # noqa: T201

    with listener:
        if settings.worker_count > 1:
            return asyncio.run(Supervisor(settings, listener, engine_runtime, announce).run())
        # Only now: it brings OpenCV, which looks at its limit while it is loaded.
        from service.app import create_app

        app = create_app(settings, runtime, gate=gate)
        return asyncio.run(run(app, listener, settings, Orders(by_signals=True), announce, tls=policy.tls))


def keep_heap() -> None:
    """Take what is there once a process has started out of the garbage collector's rounds: it stays.

    A full round goes through everything that was ever imported, and takes longer than most requests.
    """
    gc.collect()
    gc.freeze()


class Orders:
    """When to stop: `stop` to finish what was accepted, `hurry` to give it up. Belongs to one event loop.

    Args:
        by_signals: Whether SIGTERM and SIGINT give them.
    """

    def __init__(self, *, by_signals: bool) -> None:
        self.by_signals = by_signals
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()


class Listener(socket.socket):
    """A listening socket whose backlog is not for an event loop to change: other processes may have it too.

    asyncio takes one number for both: how many connections may wait, and how many it accepts before it looks at
    anything else. The second must be small, or one process of several takes a whole burst, and one that is out of
    files tries, and fails, as often in every turn.
    """

    def listen(self, backlog: int = 0, /) -> None:
        """Nothing to do: it listens already."""


class _Server(uvicorn.Server):
    """uvicorn's server, but the signals are ours: it would stop listening at the first one."""

    def __init__(self, config: uvicorn.Config, orders: Orders) -> None:
        super().__init__(config)
        self._loop = asyncio.get_running_loop()
        self._orders = orders
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if not self._orders.by_signals:
            yield
            return
        with super().capture_signals():
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        event = self._orders.hurry if self._orders.stop.is_set() else self._orders.stop
        self._loop.call_soon_threadsafe(event.set)


async def run(
    app: FastAPI,
    listener: socket.socket,
    settings: Settings,
    orders: Orders,
    announce: Callable[[Path | None], None],
    *,
    tls: Mapping[str, Any],
    at_once: int = _AT_ONCE,
) -> ExitCode:
    """Serve an application until it is ordered to stop.

    Args:
        app: Made by `create_app`.
        listener: Where to accept connections.
        settings: How long to wait for what.
        orders: When to stop.
        announce: Told, once the station has started, where a golden sample is to try.
        tls: Options of HTTPS, see `policy.check`; none for plain HTTP.
        at_once: Connections that are accepted before anything else is looked at.
    """
    patience = Patience()
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=watched_protocol(patience),
        ws="none",
        # Nobody in front of a station speaks for others; who is trusted to is told from the connection itself.
        proxy_headers=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSING_S,
        backlog=at_once,
        **tls,
    )
    server = _Server(config, orders)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    watching = asyncio.create_task(close_slow_connections(server.server_state.connections, patience))
    up = asyncio.create_task(server.up.wait())
    await asyncio.wait({serving, up}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    station: Front = app.state.station
    told_to_stop = asyncio.create_task(orders.stop.wait())
    started: asyncio.Task[Path | None] = app.state.started
    await asyncio.wait({started, told_to_stop}, return_when=asyncio.FIRST_COMPLETED)
    hurry = asyncio.create_task(orders.hurry.wait())
    code = ExitCode.OK
    closing_s = settings.grace_seconds
    if started.done() and started.exception() is not None:
        print(f"error: {started.exception()}", file=sys.stderr)  # noqa: T201
        told_to_stop.cancel()
        code = ExitCode.CANNOT_START
    else:
        if started.done():
            keep_heap()
            announce(started.result())
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
    watching.cancel()
    hurry.cancel()
    return code


async def _drain(station: "Front", hurry: asyncio.Task[Literal[True]], grace_s: float) -> bool:
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
    listener = Listener(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every connection: head and body of an answer are two writes, and 40 ms would lie between them.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        socket.socket.listen(listener, _BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _announcement(settings: Settings, policy: Policy, listener: socket.socket, sample: Path | None) -> str:
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    base = f"{policy.scheme}://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"
    options = "" if policy.open else '-H "Authorization: Bearer $ATSNET_API_KEY" '
    if settings.ssl_certfile is not None:  # whoever has signed it, the certificate itself vouches for the station
        options += f"--cacert {shlex.quote(str(settings.ssl_certfile))} "
    if settings.ssl_ca_certs is not None:
        options += "--cert CLIENT.pem --key CLIENT.key "
    # The records say what is active; the setting is for the very first start.
    bundle = settings.bundle if sample is None else "/".join(sample.relative_to(settings.weights).parts[:2])
    note = "" if bundle == settings.bundle else _OTHER_BUNDLE.format(asked=settings.bundle, var=settings.var)
    return (
        f"ATS-Net inspects at {base} with {bundle}; Ctrl-C stops it.\n{note}"
        f"  documentation   {base}/docs\n"
        f"  a part to try   curl -sS {options}--data-binary {shlex.quote(f'@{sample}')} {base}/v1/inspections"
    )
