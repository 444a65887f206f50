"""What the engine and the workers do as processes; started by the supervisor, each with a line to it.

The line is a socket pair. The first note on it says how to set up; when it ends, the supervisor has died, and so does
the process: nobody would start or stop it any more. Signals are the supervisor's business.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import structlog

from service.app import create_app
from service.engine.channel import Channel, receive_note
from service.engine.host import DecodedByWorkers, Host
from service.engine.remote import RemoteStation
from service.exit_code import ExitCode
from service.front import StartError
from service.logs import configure_logs
from service.security.gate import make_gate
from service.security.policy import check
from service.server import Listener, Orders, keep_heap, run
from service.settings import Settings, SettingsError, available_cpus
from service.station import MakeRuntime, Station

log = structlog.get_logger(__name__)

BEAT_S: Final = 0.5
"""How often a process says that its event loop turns."""

_ORPHANED_S: Final = 5.0
"""Longest time that a process outlives its supervisor."""


def main() -> None:
    """Be the process that the arguments say: a role and the descriptor of the line to the supervisor."""
    role, descriptor = sys.argv[1:3]
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    line = socket.socket(fileno=int(descriptor))
    setup, descriptors = receive_note(line)
    settings = Settings.model_validate(setup["settings"])
    configure_logs(settings.log_format, settings.log_level)
    structlog.contextvars.bind_contextvars(process=setup["name"])
    if role == "engine":
        runtime = _made_by(setup["runtime"]) if setup["runtime"] else None
        # It costs the engine less; not for workers, where it takes a burst of connections into one of them.
        import uvloop

        code = uvloop.run(_be_engine(line, settings, runtime))
    else:
        code = asyncio.run(_be_worker(line, settings, Listener(fileno=descriptors[0])))
    sys.exit(code)


async def _be_engine(line: socket.socket, settings: Settings, runtime: MakeRuntime | None) -> ExitCode:
    station = Station(settings, runtime, DecodedByWorkers())
    host = Host(station)
    orders = Orders(by_signals=False)

    def on_note(note: dict[str, Any], descriptors: list[int]) -> None:
        match note["do"]:
            case "connect":
                host.connect(socket.socket(fileno=descriptors[0]))
            case "know":
                station.metrics.restarts.counts = note["restarts"]
            case "stop":
                orders.stop.set()

    channel = Channel(line, on_note=on_note, on_end=lambda: _die_with_supervisor(orders))
    beating = asyncio.create_task(_beat(channel, lambda: _check_runtime(station, channel)))
    try:
        sample = await station.start()
    except StartError as error:
        channel.note({"failed": str(error)})
        channel.close()
        return ExitCode.CANNOT_START
    host.open()
    keep_heap()
    channel.note({"up": str(sample)})
    await orders.stop.wait()
    station.begin_drain()
    station.abandon()
    await station.idle()
    await station.stop()
    host.close()
    beating.cancel()
    channel.close()
    return ExitCode.OK


async def _be_worker(line: socket.socket, settings: Settings, listener: socket.socket) -> ExitCode:
    station = RemoteStation(settings, decode_threads=max(1, available_cpus() // settings.worker_count))
    orders = Orders(by_signals=False)

    def on_note(note: dict[str, Any], descriptors: list[int]) -> None:
        match note["do"]:
            case "connect":
                station.connect(socket.socket(fileno=descriptors[0]))
            case "know":
                station.restarts.counts, station.restarting = note["restarts"], note["restarting"]
            case "failed":
                station.failure = note["reason"]
            case "stop":
                orders.stop.set()
            case "hurry":
                orders.stop.set()
                orders.hurry.set()

    channel = Channel(line, on_note=on_note, on_end=lambda: _die_with_supervisor(orders))
    beating = asyncio.create_task(_beat(channel, lambda: None))

    def announce(_: Path | None) -> None:
        channel.note({"up": None})

    try:
        policy = check(settings, settings.host)
        app = create_app(settings, station=station, gate=make_gate(settings, policy))
    except SettingsError as error:
        channel.note({"failed": str(error)})
        code = ExitCode.CANNOT_START
    else:
        code = await run(app, listener, settings, orders, announce, tls=policy.tls, at_once=1)
    beating.cancel()
    channel.close()
    return code


async def _beat(channel: Channel, check: Callable[[], None]) -> None:
    while True:
        check()
        channel.note({"beat": None})
        await asyncio.sleep(BEAT_S)


def _check_runtime(station: Station, channel: Channel) -> None:
    hung_s = station.hung_s
    if hung_s:
        # It cannot be interrupted and may hold the device: only the end of the process helps.
        log.critical("runtime_hangs", seconds=round(hung_s, 1))
        channel.note({"failed": f"the runtime had not answered for {hung_s:.0f} s"})
        sys.stderr.flush()
        os._exit(ExitCode.CANNOT_START)


def _die_with_supervisor(orders: Orders) -> None:
    log.error("supervisor_lost")
    orders.stop.set()
    orders.hurry.set()
    last = threading.Timer(_ORPHANED_S, os._exit, [ExitCode.DRAIN_CUT_SHORT])
    last.daemon = True
    last.start()


def _made_by(name: str) -> MakeRuntime:
    module, _, function = name.partition(":")
    make: MakeRuntime = getattr(import_module(module), function)
    return make
