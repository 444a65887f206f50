"""The table that people watch while the line runs."""

import time
from types import TracebackType
from typing import Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.simulated_line.summary import LatencySummary, Summary, VerdictCounts

_SECONDS_BETWEEN_LINES: Final = 10.0


class Display:
    """Shows the board while the line runs: in place on a terminal, a line now and then anywhere else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, summary: Summary) -> None:
        """Show the state of the line."""
        if self._console.is_terminal:
            self._live.update(board(summary), refresh=True)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(progress_line(summary))


def board(summary: Summary) -> RenderableType:
    """Stations, truth, and what there is to say beside them."""
    return Group(_stations(summary), _truth(summary), *_remarks(summary))


def progress_line(summary: Summary) -> str:
    """The same in one line, for a log."""
    latency = summary.latency_ms
    return (
        f"{summary.seconds:.0f} s: {summary.posted} parts, {summary.parts_per_s:.1f}/s, "
        f"p50 {_ms(latency.p50)} p99 {_ms(latency.p99)} ms, "
        f"{sum(summary.refused.values())} refused, {summary.faults} wrong, agreement {_percent(summary.agreement)}"
    )


def _stations(summary: Summary) -> Table:
    table = _table(f"{summary.run}: by station; ms from when a part was due")
    table.add_column("station", no_wrap=True)
    for heading in ("parts", "/s", "pass", "review", "fail", "none", "p50", "p95", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, station in summary.stations.items():
        table.add_row(name, *_row(station.verdicts, station.parts_per_s, station.latency_ms))
    if len(summary.stations) > 1:
        table.add_section()
        every = [station.verdicts for station in summary.stations.values()]
        table.add_row("all", *_row(_sum(every), summary.parts_per_s, summary.latency_ms))
    return table


def _row(verdicts: VerdictCounts, rate: float, latency: LatencySummary) -> list[str]:
    times = (latency.p50, latency.p95, latency.p99, latency.longest)
    return [str(verdicts.parts), f"{rate:.2f}", *_cells(verdicts), *map(_ms, times)]


def _truth(summary: Summary) -> Table:
    table = _table(f"by the truth; {summary.pictures} different pictures")
    table.add_column("truth")
    for heading in ("parts", "pass", "review", "fail", "none", "as it should be"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, verdicts in summary.truth.items():
        judged = verdicts.parts - verdicts.none
        right = verdicts.passed if name == "good" else judged - verdicts.passed
        share = _percent(right / judged if judged else None)
        table.add_row(name, str(verdicts.parts), *_cells(verdicts), share)
    return table


def _remarks(summary: Summary) -> list[Text]:
    repeats = summary.repeats
    refused = ", ".join(f"{count} of code {code}" for code, count in summary.refused.items()) or "none"
    lines = [
        Text(
            f"{summary.parts_per_s:.2f} of {summary.parts_per_s_wanted:g} parts/s, {summary.under_way} under way, "
            f"posted {summary.longest_delay_ms:.1f} ms late at most"
        ),
        Text(
            f"agreement {_percent(summary.agreement)}: {summary.false_rejects} good parts did not pass, "
            f"{summary.escapes} defective ones did"
        ),
        Text(f"refused: {refused}"),
        Text(
            f"posted twice {repeats.sent}, compared {repeats.checked}, contradicted {repeats.contradicted}; "
            f"unanswered {summary.unanswered}; failed {summary.failed}",
            style="red" if summary.faults else "green",
        ),
    ]
    return lines + [Text(trouble, style="red") for trouble in summary.troubles]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)


def _cells(verdicts: VerdictCounts) -> list[str]:
    return [str(verdicts.passed), str(verdicts.review), str(verdicts.fail), str(verdicts.none)]


def _sum(counts: list[VerdictCounts]) -> VerdictCounts:
    return VerdictCounts(**{name: sum(getattr(each, name) for each in counts) for name in VerdictCounts.model_fields})


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
