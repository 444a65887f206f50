"""Runs cells in several processes at a time, each on a device of its own or with its share of the cores.

A process is started for each place, not for each cell, so that PyTorch and the images of a part are loaded once. It is
replaced after a failure, which may leave memory or a GPU in a bad state.
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, Protocol

import cv2
import torch

from atsnet.baselines.methods import METHODS, MakeDetector
from atsnet.benchmark.cell import Backbone, CellResult, CellRunner
from atsnet.benchmark.plan import Cell

_SECONDS_BETWEEN_REPORTS: Final = 0.25
_GRACE_SECONDS: Final = 60.0
"""How long an interrupted cell may take to its next step, to keep what it has learned so far."""

# Whoever watches is told by the parent alone; Ctrl-C reaches all processes of a terminal.
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process computes."""

    device: str
    """As PyTorch names it."""
    threads: int
    """Of the CPU."""
    jobs: int
    """How many places there are."""


@dataclass(frozen=True, slots=True)
class CellFailure:
    """Why a cell has no result."""

    error: str
    """One line or a few, for a person."""
    trace: str = ""


class Watcher(Protocol):
    """Is told what goes on."""

    def expect(self, done: int, total: int) -> None:
        """So many cells there are, and so many of them are finished already."""

    def progress(self, slot: int, cell: Cell, task: str, done: int, total: int) -> None:
        """`done` of `total` steps of `task` are finished, of the cell that runs at place number `slot`."""

    def finished(self, slot: int, cell: Cell, outcome: CellResult | CellFailure) -> None:
        """A cell has ended."""


def plan_places(device: torch.device, jobs: int | None = None) -> list[Place]:
    """Where cells run side by side.

    Args:
        device: A CPU, or any GPU for all GPUs that there are.
        jobs: How many processes; by default one for each GPU, or one for every two cores, as training gains little
            from more.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    count = jobs or gpus or max(1, cores // 2)
    names = [f"cuda:{index % gpus}" for index in range(count)] if gpus else ["cpu"] * count
    return [Place(name, max(1, cores // count), count) for name in names]


def run_cells(
    cells: Sequence[Cell],
    places: Sequence[Place],
    backbone: Backbone,
    out: Path,
    watcher: Watcher,
    baselines: Mapping[str, MakeDetector] = METHODS,
) -> dict[Cell, CellResult | CellFailure]:
    """Run cells, several at a time; one that fails does not stop the others.

    Args:
        cells: What to run, in this order.
        places: Where; no more of them are used than there are cells.
        backbone: The trunk of all cells.
        out: The benchmark's directory.
        watcher: Told of every start, step and end, in this process.
        baselines: By name, importable by a new process.

    Raises:
        KeyboardInterrupt: Ctrl-C; what can be resumed is kept, and all processes have ended.
    """
    pool = _Pool(deque(cells), backbone, out, watcher, baselines)
    try:
        for slot, place in enumerate(places[: len(cells)]):
            pool.start(slot, place)
        while pool.workers:
            pool.listen()
    except KeyboardInterrupt:
        pool.interrupt()
        raise
    finally:
        pool.end()
    return pool.outcomes


@dataclass
class _Worker:
    slot: int
    place: Place
    process: SpawnProcess
    connection: Connection
    cell: Cell | None = None


@dataclass
class _Pool:
    waiting: deque[Cell]
    backbone: Backbone
    out: Path
    watcher: Watcher
    baselines: Mapping[str, MakeDetector]
    outcomes: dict[Cell, CellResult | CellFailure] = field(default_factory=dict)
    workers: dict[Connection, _Worker] = field(default_factory=dict)
    stop: Event = field(default_factory=_SPAWN.Event)

    def start(self, slot: int, place: Place) -> None:
        """Start a process that runs what waits."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_work, args=(theirs, self.stop, place, self.backbone, self.out, self.baselines), daemon=True
        )
        with _environment_for(place.threads):
            process.start()
        theirs.close()
        self.workers[ours] = _Worker(slot, place, process, ours)
        self._hand_out(self.workers[ours])

    def listen(self) -> None:
        """Wait until some process says something, and act on it."""
        for connection in wait(list(self.workers)):
            worker = self.workers[connection]  # type: ignore[index]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                message = CellFailure(f"its process died with exit code {worker.process.exitcode}; out of memory?")
            if isinstance(message, tuple):
                self.watcher.progress(worker.slot, _required(worker.cell), *message)
                continue
            self._note(worker, message)
            if isinstance(message, CellResult):
                self._hand_out(worker)
            else:
                self._dismiss(worker)
                if self.waiting:
                    self.start(worker.slot, worker.place)

    def interrupt(self) -> None:
        """Ask every process to end at its next step, and wait for it; a second Ctrl-C ends the waiting."""
        self.stop.set()
        deadline = time.monotonic() + _GRACE_SECONDS
        while self.workers and time.monotonic() < deadline:
            for connection in wait(list(self.workers), timeout=deadline - time.monotonic()):
                worker = self.workers[connection]  # type: ignore[index]
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    self._dismiss(worker)
                    continue
                if not isinstance(message, tuple):
                    self._note(worker, message)
                    self._dismiss(worker)

    def end(self) -> None:
        """Leave no process behind."""
        for worker in list(self.workers.values()):
            worker.process.terminate()
            self._dismiss(worker)

    def _hand_out(self, worker: _Worker) -> None:
        worker.cell = self.waiting.popleft() if self.waiting else None
        try:
            worker.connection.send(worker.cell)
        except OSError:
            return  # it has died; whoever listens finds that out
        if worker.cell is None:
            self._dismiss(worker)
        else:
            self.watcher.progress(worker.slot, worker.cell, "starting", 0, 1)

    def _note(self, worker: _Worker, outcome: CellResult | CellFailure) -> None:
        cell = _required(worker.cell)
        self.outcomes[cell] = outcome
        self.watcher.finished(worker.slot, cell, outcome)

    def _dismiss(self, worker: _Worker) -> None:
        del self.workers[worker.connection]
        worker.connection.close()
        worker.process.join()
        worker.process.close()


def _required(cell: Cell | None) -> Cell:
    assert cell is not None, "a process without a cell has nothing to say"
    return cell


def _work(
    connection: Connection,
    stop: Event,
    place: Place,
    backbone: Backbone,
    out: Path,
    baselines: Mapping[str, MakeDetector],
) -> None:
    """The life of one process: cells in, progress and outcomes out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(place.threads)
    cv2.setNumThreads(place.threads)
    reports = _Reports(connection, stop)
    runner: CellRunner | None = None
    while True:
        try:
            cell = connection.recv()
        except EOFError:
            return
        if cell is None:
            return
        try:
            if runner is None:
                device = torch.device(place.device)
                runner = CellRunner(backbone, out, device, jobs=place.jobs, baselines=baselines)
            outcome: CellResult | CellFailure = runner.run(cell, reports)
        except KeyboardInterrupt:
            return
        except Exception as error:
            outcome = CellFailure(f"{type(error).__name__}: {error}", traceback.format_exc())
        try:
            connection.send(outcome)
        except OSError:
            return


class _Reports:
    """Sends progress to the parent, not too often; ends the work when the parent wants to stop or is gone."""

    def __init__(self, connection: Connection, stop: Event) -> None:
        self._connection, self._stop = connection, stop
        self._task, self._last = "", 0.0

    def __call__(
        self,
        task: str,
        done: int,
        total: int,
        values: Mapping[str, float] | None = None,  # noqa: ARG002 - nobody compares losses between methods
    ) -> None:
        """See `atsnet.progress.Reporter`."""
        if self._stop.is_set():
            raise KeyboardInterrupt
        now = time.monotonic()
        if task == self._task and done < total and now - self._last < _SECONDS_BETWEEN_REPORTS:
            return
        self._task, self._last = task, now
        try:
            self._connection.send((task, done, total))
        except OSError:
            raise KeyboardInterrupt from None


@contextmanager
def _environment_for(threads: int) -> Iterator[None]:
    """What a process started inside finds in its environment: libraries read it once, when they are loaded.

    Threads that wait sleep rather than spin, unless the caller's environment says otherwise: where something else
    needs the cores too, a cell with 4 spinning threads on 4 busy cores took more than 13 times as long.
    """
    before = dict(os.environ)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
