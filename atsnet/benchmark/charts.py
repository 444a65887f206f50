"""A bar chart of a benchmark, drawn without a display."""

import warnings
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from atsnet.benchmark.document import BenchmarkResults
from atsnet.benchmark.summary import ALL, AUPRO, IMAGE_AUROC, by_part_and_variant, over_seeds

_FLOORS: Final = {IMAGE_AUROC: 50.0, AUPRO: 0.0}
"""What a score that knows nothing reaches, in percent: the bars start there, and hang down from it below."""


def draw_bars(path: Path, results: BenchmarkResults) -> None:
    """Image AUROC and AUPRO@0.3 of every variant, by part and over all parts, with the spread over seeds."""
    groups = by_part_and_variant(results.cells)
    parts = sorted({part for part, _ in groups}, key=lambda part: (part == ALL, part))
    width = 0.8 / len(results.titles)
    figure = Figure(figsize=(max(6.0, 2 + 0.55 * len(parts) * len(results.titles)), 7), layout="constrained")
    for row, (measure, floor) in enumerate(_FLOORS.items(), start=1):
        axes = figure.add_subplot(len(_FLOORS), 1, row)
        for index, (variant, title) in enumerate(results.titles.items()):
            spreads = [over_seeds(groups.get((part, variant), []), measure.of) for part in parts]
            values = np.array([np.nan if found is None else 100 * found.mean for found in spreads])
            errors = [0.0 if found is None else 100 * (found.deviation or 0) for found in spreads]
            places = np.arange(len(parts)) + (index - (len(results.titles) - 1) / 2) * width
            bars = axes.bar(places, values - floor, width, floor, yerr=errors, capsize=3, label=_plain(title))
            axes.bar_label(bars, [f"{value:.1f}" if np.isfinite(value) else "" for value in values], fontsize=7)
        axes.set_xticks(np.arange(len(parts)), [_plain(part) for part in parts])
        axes.set(ylabel=f"{measure.heading}, %", ylim=(None, 104))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        if row == 1:
            spread = f", mean ± standard deviation of {results.seeds} seeds" if results.seeds > 1 else ", 1 seed"
            axes.set_title(_plain(results.title + spread))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(results.titles)))
    with warnings.catch_warnings():
        # Names in a script that the font lacks are drawn as boxes; the tables have them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]


def _plain(text: str) -> str:
    """A name from the data, not to be read as a formula."""
    return text.replace("$", r"\$")
