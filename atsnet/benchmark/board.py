"""Shows what becomes of the cells: a line for each running one on a terminal, plain lines in a log."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from atsnet.benchmark.cell import CellResult
from atsnet.benchmark.plan import Cell
from atsnet.benchmark.pool import CellFailure
from atsnet.benchmark.summary import AUPRO, IMAGE_AUROC
from atsnet.wording import counted

_SECONDS_BETWEEN_LINES: Final = 60.0


class Board:
    """Watches cells; see `atsnet.benchmark.pool.Watcher`."""

    def __init__(self, console: Console, seconds_between_lines: float = _SECONDS_BETWEEN_LINES) -> None:
        self.console, self.seconds_between_lines = console, seconds_between_lines
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console)
        self._overall: TaskID | None = None
        self._slots: dict[int, tuple[TaskID, Cell, str]] = {}
        self._last_line: dict[int, float] = {}
        self.done, self.total = 0, 0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def expect(self, done: int, total: int) -> None:
        """Say how many cells there are, and how many of them an earlier call has finished."""
        self.done, self.total = done, total
        self._overall = self._bars.add_task("cells", total=total, completed=done)
        if done:
            self._say(f"{done} of {counted(total, 'cell')} finished already")

    def progress(self, slot: int, cell: Cell, task: str, done: int, total: int) -> None:
        """Show the state of a running cell."""
        bar, before, stage = self._slots.get(slot, (None, None, None))
        if bar is None:
            bar = self._bars.add_task("")
        if (before, stage) != (cell, task):
            if before is not cell:
                self._last_line[slot] = time.monotonic()
                if not self.console.is_terminal:
                    self._say(f"{cell}: started")
            self._slots[slot] = bar, cell, task
            self._bars.reset(bar, description=escape(f"{cell}: {task}"), total=total)
        self._bars.update(bar, completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self._last_line[slot] >= self.seconds_between_lines:
            self._last_line[slot] = time.monotonic()
            self._say(f"{cell}: {task}: {done}/{total}")

    def finished(self, slot: int, cell: Cell, outcome: CellResult | CellFailure) -> None:
        """Say what a cell gave."""
        self.done += 1
        if self._overall is not None:
            self._bars.update(self._overall, completed=self.done)
        bar, _, _ = self._slots.pop(slot, (None, None, None))
        if bar is not None:
            self._bars.remove_task(bar)
        if isinstance(outcome, CellFailure):
            said = f"FAILED: {outcome.error}"
        else:
            figures = (f"{figure.heading} {_percent(figure.of(outcome))}" for figure in (IMAGE_AUROC, AUPRO))
            said = f"{', '.join(figures)}; learned in {outcome.seconds:.0f} s"
        self._say(f"[{self.done}/{self.total}] {cell}: {said}")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.1%}"
