"""How long work tells that it goes on: a progress bar on a terminal, plain lines in a log."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Receives the state of one piece of long work after the other."""

    def __call__(self, task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        """`done` of `total` steps of `task` are finished; `values` are figures worth watching, such as the loss."""


def silent(task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
    """Report nothing."""


class ConsoleReporter:
    """Draws bars on a terminal; writes a line every tenth part, and every half minute, anywhere else."""

    def __init__(self, console: Console, seconds_between_lines: float = 30.0) -> None:
        self.console, self.seconds_between_lines = console, seconds_between_lines
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, TextColumn("{task.fields[values]}"), console=console)
        self._tasks: dict[str, TaskID] = {}
        self._shares: dict[str, float] = {}
        self._next_share: dict[str, float] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def __call__(self, task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        """Show the state of a task; see `Reporter`."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())
        if self.console.is_terminal:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total, values="")
            self._bars.update(self._tasks[task], completed=done, total=total, values=text)
            return
        share = done / total if total else 1.0
        if share < self._shares.get(task, 0.0):  # the same work once more
            self._next_share.pop(task)
        self._shares[task] = share
        late = time.monotonic() - self._last_line >= self.seconds_between_lines
        if late or share >= self._next_share.get(task, 0.1):
            self._next_share[task] = (int(share * 10) + 1) / 10 if share < 1 else float("inf")
            self._last_line = time.monotonic()
            line = f"{task}: {done}/{total}  {text}".rstrip()
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
