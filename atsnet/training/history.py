"""What is written down while a run trains, `history.jsonl`: one line when a process begins, and one an event.

Each line is written as it happens, so that an interrupted run keeps its past, and a resumed one adds to it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from atsnet import __version__
from atsnet.evaluation.cost import describe_device
from atsnet.progress import Reporter, silent

HISTORY_NAME: Final = "history.jsonl"
_STEPS_KEPT: Final = 250
"""A stage's losses are written down at about so many of its steps."""


class SessionStart(BaseModel):
    """The process that trains from here on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    began: datetime
    resumed: bool
    device: str
    threads: int
    """CPU threads that PyTorch computes with."""
    atsnet_version: str
    torch_version: str


class Event(BaseModel):
    """How far a piece of work is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    done: int
    total: int
    seconds: float
    """Since the process began to train."""
    losses: dict[str, float] = {}
    """Moving mean of each term, by its name within the stage."""


_LINE: Final = TypeAdapter[SessionStart | Event](SessionStart | Event)


@dataclass(frozen=True, slots=True)
class Phase:
    """A piece of work in one session."""

    task: str
    first: int
    """Step that it began with."""
    done: int
    total: int
    seconds: float
    """From the end of the phase before; what nobody reports of is part of the phase that follows."""


@dataclass(frozen=True, slots=True)
class Session:
    """What one process did."""

    start: SessionStart
    events: tuple[Event, ...]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """In the order of time; the same work once more is a phase of its own."""
        phases: list[Phase] = []
        now = ended = 0.0
        for event in self.events:
            if phases and phases[-1].task == event.task and phases[-1].done < event.done:
                first = phases.pop().first
            else:
                first, ended = event.done, now
            phases.append(Phase(event.task, first, event.done, event.total, event.seconds - ended))
            now = event.seconds
        return tuple(phases)

    @property
    def seconds(self) -> float:
        """How long it trained, as far as is known."""
        return self.events[-1].seconds if self.events else 0.0


class HistoryRecorder:
    """A reporter that writes down what it is told, and hands it on to another."""

    def __init__(self, directory: Path, device: torch.device, report: Reporter = silent, *, resumed: bool) -> None:
        """Begin the history of a run, or add a session to it.

        Args:
            directory: Of the run.
            device: That it trains on.
            report: Told everything that this one is told.
            resumed: Go on with the history in `directory`; without it, that is of something else, and replaced.
        """
        self.losses: Callable[[], Mapping[str, float]] = dict
        """Asked for the losses of all stages after a step, `stage1 <term>` and so on."""
        self._path, self._report = directory / HISTORY_NAME, report
        self._began = monotonic()
        self._task, self._done = "", 0
        if not resumed:
            self._path.unlink(missing_ok=True)
        elif self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            self._append("\n")  # the power went while a line was being written
        self._write(
            SessionStart(
                began=datetime.now(UTC).replace(microsecond=0),
                resumed=resumed,
                device=describe_device(device),
                threads=torch.get_num_threads(),
                atsnet_version=__version__,
                torch_version=torch.__version__,
            )
        )

    def __call__(self, task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        """Write down the first and the last step of a task, and some of those that have losses; see `Reporter`."""
        begins = task != self._task or done <= self._done
        self._task, self._done = task, done
        if begins or done == total or (values and done % max(1, total // _STEPS_KEPT) == 0):
            losses = self._losses_of(task) if values else {}
            seconds = round(monotonic() - self._began, 3)
            self._write(Event(task=task, done=done, total=total, seconds=seconds, losses=losses))
        self._report(task, done, total, values)

    def _losses_of(self, task: str) -> dict[str, float]:
        """The task `stage 1 (teacher)` has the losses `stage1 <term>`."""
        stage = "".join(task.split()[:2]) + " "
        return {
            name.removeprefix(stage): float(f"{value:.6g}")
            for name, value in self.losses().items()
            if name.startswith(stage)
        }

    def _write(self, line: SessionStart | Event) -> None:
        self._append(line.model_dump_json() + "\n")

    def _append(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def load_history(directory: Path) -> tuple[Session, ...]:
    """Read a run's history; empty where it was trained before there was one.

    A line that was cut off when the process ended is passed over.
    """
    path = directory / HISTORY_NAME
    found: list[tuple[SessionStart, list[Event]]] = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = _LINE.validate_json(line)
        except ValidationError:
            continue
        if isinstance(entry, SessionStart):
            found.append((entry, []))
        elif found:
            found[-1][1].append(entry)
    return tuple(Session(start, tuple(events)) for start, events in found)


def loss_curves(sessions: Sequence[Session]) -> dict[str, list[Event]]:
    """The events with losses of each task, in the order of steps.

    Steps that were taken again after a crash count as they were taken last.
    """
    curves: dict[str, list[Event]] = {}
    for session in sessions:
        for event in session.events:
            if event.losses:
                curve = curves.setdefault(event.task, [])
                while curve and curve[-1].done >= event.done:
                    curve.pop()
                curve.append(event)
    return curves
