"""The tables of a benchmark, on a terminal and in Markdown, with the same text in both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from atsnet.benchmark.document import BenchmarkResults
from atsnet.benchmark.summary import (
    ALL,
    FIGURES,
    IMAGE_AUROC,
    Figure,
    by_defect,
    by_part_and_variant,
    difference_text,
    over_seeds,
)
from atsnet.wording import counted

_DETECTION: Final = FIGURES[:6]
_OPERATION: Final = FIGURES[6:]
"""All figures side by side are too wide for most terminals."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Text in rows and columns; the first `words` columns are words, the rest numbers."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int


def to_markdown(results: BenchmarkResults) -> str:
    """The whole document."""
    lines = [
        f"# {results.title}",
        "",
        f"    {results.command}",
        "",
        *(f"{line}  " for line in _conditions(results)),
        "",
    ]
    lines += _markdown(_main(results, FIGURES))
    lines += ["", *(f"- {difference_text(found, results.titles)}" for found in results.differences)]
    defects = _defects(results)
    if defects.rows:
        lines += [
            "",
            "Image AUROC of each kind of defect against the good images, in percent:",
            "",
            *_markdown(defects),
        ]
    return "\n".join([*lines, *_failures(results)]) + "\n"


def to_terminal(results: BenchmarkResults) -> Group:
    """The same, for `rich.print`."""
    parts: list[Table | Text] = [
        _table(_main(results, _DETECTION), f"{results.title}, what is found"),
        _table(_main(results, _OPERATION), f"{results.title}, in operation"),
        Text("\n".join(_conditions(results))),
        Text("\n".join(difference_text(found, results.titles) for found in results.differences)),
        _table(_defects(results), "image AUROC by defect"),
        Text("\n".join(_failures(results)).strip()),
    ]
    return Group(*(part for part in parts if (part.plain if isinstance(part, Text) else part.row_count)))


def _main(results: BenchmarkResults, shown: Sequence[Figure]) -> _Grid:
    groups = by_part_and_variant(results.cells)
    parts = sorted({part for part, _ in groups}, key=lambda part: (part == ALL, part))
    rows = []
    for part in parts:
        wanted = results.seeds * (len(results.parts) if part == ALL else 1)
        for variant, title in results.titles.items():
            cells = groups.get((part, variant), [])
            figures = (figure.text(over_seeds(cells, figure.of)) for figure in shown)
            rows.append((part, title, *figures, f"{len(cells)}/{wanted}"))
    headings = tuple(figure.heading for figure in shown)
    return _Grid(("part", "method", *headings, "cells"), tuple(rows), words=2)


def _defects(results: BenchmarkResults) -> _Grid:
    several = len(results.parts) > 1
    rows = tuple(
        (f"{part}: {defect}" if several else defect, *(IMAGE_AUROC.text(found.get(name)) for name in results.titles))
        for (part, defect), found in by_defect(results.cells).items()
    )
    return _Grid(("defect", *results.titles.values()), rows, words=1)


def _conditions(results: BenchmarkResults) -> list[str]:
    """What the figures were made under, as far as a reader needs it to believe them."""
    speeds = {
        f"{speed.device}, {counted(speed.threads, 'thread')}, {counted(speed.jobs, 'cell')} side by side"
        for speed in (cell.speed for cell in results.cells)
    }
    seeds = "1 seed" if results.seeds == 1 else f"mean ± standard deviation over {results.seeds} seeds"
    return [
        f"In percent, {seeds}; trunk {results.backbone.name}, the same split of the good images for every method.",
        f"False rejects and escapes at the threshold for {results.target_false_reject_rate:.1%} false rejects, learned "
        "from held-out good images alone.",
        f"ms: one frame at a time, median; {' and '.join(sorted(speeds)) or 'not measured'}. "
        "M numbers: millions of numbers stored, the trunk included.",
    ]


def _failures(results: BenchmarkResults) -> list[str]:
    if not results.failures:
        return []
    lines = [f"- {name}: {error.splitlines()[0]}" for name, error in results.failures.items()]
    return ["", f"{counted(len(lines), 'cell')} without a result, and the figures are without them:", "", *lines]


def _markdown(grid: _Grid) -> list[str]:
    rules = ["---"] * grid.words + ["---:"] * (len(grid.headings) - grid.words)
    return [_line(row) for row in (grid.headings, rules, *grid.rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _table(grid: _Grid, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(grid.headings):
        table.add_column(heading, justify="left" if index < grid.words else "right")
    before = grid.rows[0][0] if grid.rows else ""
    for row in grid.rows:
        if grid.words > 1 and row[0] != before:
            table.add_section()
        before = row[0]
        table.add_row(*(Text(cell) for cell in row))
    return table
