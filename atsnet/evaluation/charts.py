"""Curves and histograms of an evaluation, drawn without a display."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from atsnet.data.layout import GOOD
from atsnet.evaluation.assessment import (
    AUPRO_LIMIT,
    AUPRO_STRICT_LIMIT,
    DecisionReport,
    EvaluationReport,
    LabelReport,
    TestSet,
)
from atsnet.evaluation.metrics import Float64Array, binomial_interval, image_roc
from atsnet.evaluation.pixel_metrics import PixelCurve, PixelScores

ROC_NAME: Final = "roc.png"
PRO_NAME: Final = "pro.png"
SCORES_NAME: Final = "scores.png"

GOOD_COLOR: Final = "#0072B2"
DEFECT_COLOR: Final = "#D55E00"
"""Blue and vermilion: told apart by colour-blind eyes too (Okabe and Ito)."""
_KIND_COLORS: Final = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#8C564B", "#B5A400", "#6A3D9A", "#7F7F7F")
"""Of single defects; those beyond are in the tables only."""

_DPI: Final = 130
_BINS: Final = 60
_DRAWN_POINTS: Final = 2001


def draw_roc(path: Path, test_set: TestSet, scores: Float64Array, report: EvaluationReport) -> None:
    """The ROC curve over images, of all and of each defect, with the working point and its 95 % intervals.

    An empty picture that says so where it is not defined.
    """
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="false-reject rate (good images that fail)", ylabel="detection rate (defective images that fail)")
    curve = image_roc(test_set.defective, scores)
    if curve is None:
        axes.text(0.5, 0.5, "not defined: the test set needs\ngood and defective images", ha="center", va="center")
    else:
        labels = np.array([sample.label for sample in test_set.samples])
        axes.plot((0, 1), (0, 1), color="0.8", linewidth=1)
        for color, row in zip(_KIND_COLORS, _worst_first(report), strict=False):
            chosen = (labels == row.label) | (labels == GOOD)
            of_kind = image_roc(labels[chosen] == row.label, scores[chosen])
            assert of_kind is not None
            axes.plot(*of_kind, color=color, linewidth=1, label=f"{plain(row.label)} {row.image_auroc:.4f}")
        axes.plot(*curve, color="black", linewidth=2, label=f"all defects {report.image_auroc:.4f}")
        if report.decisions is not None:
            _mark_decisions(axes, report)
        axes.legend(loc="lower right", fontsize="small", title="AUROC")
    axes.set_title("Images: detection against false rejects")
    save(figure, path)


def draw_pro(path: Path, pixels: PixelScores, report: EvaluationReport) -> None:
    """PRO over FPR up to the limit of AUPRO, of all and of each defect, with the deployed map threshold.

    An empty picture that says so where it is not defined.
    """
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlim=(0, AUPRO_LIMIT), ylim=(-0.02, 1.02))
    axes.set(xlabel="false-positive rate over defect-free pixels", ylabel="per-region overlap (PRO)")
    curve = pixels.curve()
    if curve is None:
        axes.text(AUPRO_LIMIT / 2, 0.5, "not defined: no image has a mask\nwith a defect", ha="center", va="center")
    else:
        for color, row in zip(_KIND_COLORS, _worst_first(report), strict=False):
            of_kind = pixels.curve(row.label)
            if of_kind is not None:
                axes.plot(*_thinned(of_kind), color=color, linewidth=1, label=f"{plain(row.label)} {row.aupro:.4f}")
        axes.plot(*_thinned(curve), color="black", linewidth=2, label=f"all defects {report.aupro:.4f}")
        axes.axvline(AUPRO_STRICT_LIMIT, color="0.6", linewidth=1, linestyle=":")
        axes.text(AUPRO_STRICT_LIMIT, 0, f" AUPRO@{AUPRO_STRICT_LIMIT:g} ends here", color="0.4", fontsize="small")
        decisions = report.decisions
        if decisions and decisions.pixel_fpr is not None and decisions.pro is not None:
            axes.plot(
                decisions.pixel_fpr, decisions.pro, "o", color=DEFECT_COLOR, label="at the map threshold", clip_on=False
            )
        axes.legend(loc="lower right", fontsize="small", title=f"AUPRO@{AUPRO_LIMIT:g}", bbox_to_anchor=(1, 0.04))
    axes.set_title("Pixels: regions covered against false alarms")
    save(figure, path)


def draw_scores(path: Path, labels: Sequence[str], scores: Float64Array, decisions: DecisionReport | None) -> None:
    """A histogram of the scores of each label, in rows, calibrated where there is a threshold; the threshold dashed."""
    values = scores / (decisions.score_threshold if decisions else 1.0)
    names = sorted(set(labels), key=lambda label: (label != GOOD, label))
    figure = Figure(figsize=(8, 1.2 + 0.95 * len(names)), layout="constrained")
    rows = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    logarithmic = bool(values.min() > 0 and values.max() > 10 * values.min())
    edges = _edges(values, logarithmic, 1.0 if decisions else None)
    for axes, name in zip(rows, names, strict=True):
        chosen = values[[label == name for label in labels]]
        axes.hist(chosen, bins=edges, color=GOOD_COLOR if name == GOOD else DEFECT_COLOR)
        axes.set_ylabel(f"{plain(name)}\n({len(chosen)})", rotation=0, ha="right", va="center")
        axes.spines[["top", "right"]].set_visible(False)
        if logarithmic:
            axes.set_xscale("log", subs=())
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
        if decisions:
            axes.axvline(1.0, color="black", linewidth=1, linestyle="--")
            axes.set_title(f"{int((chosen > 1).sum())} of {len(chosen)} fail", loc="right", fontsize="small", pad=2)
            if decisions.review_from is not None:
                axes.axvspan(decisions.review_from / decisions.score_threshold, 1.0, color="0.85", zorder=0)
    figure.suptitle("Scores of each label" + (", threshold dashed" if decisions else ""))
    rows[-1].set_xlabel("calibrated score (1 is the threshold)" if decisions else "raw score")
    save(figure, path)


def _edges(values: Float64Array, logarithmic: bool, threshold: float | None) -> list[float]:
    """Edges of equal bins, on a logarithmic scale if so wanted, one of them at the threshold."""
    # The threshold belongs to what the bins span, or scores that are all alike would be bars too thin to be seen.
    span = values if threshold is None else np.append(values, threshold)
    low, high = (float(np.log(end) if logarithmic else end) for end in (span.min(), span.max()))
    anchor = span.min() if threshold is None else threshold
    fixed = float(np.log(anchor) if logarithmic else anchor)
    width = max((high - low) / _BINS, 1e-6 * max(abs(low), abs(high), 1e-6))
    # One more at each end: rounding must leave no value outside.
    steps = np.arange(math.floor((low - fixed) / width) - 1, math.ceil((high - fixed) / width) + 2)
    edges = fixed + width * steps
    return [float(edge) for edge in (np.exp(edges) if logarithmic else edges)]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with warnings.catch_warnings():
        # Names in a script that the font lacks are drawn as boxes; the tables have them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.set_dpi(_DPI)
        FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]


def plain(text: str) -> str:
    """A name from the data, not to be read as a formula."""
    return text.replace("$", r"\$")


def _worst_first(report: EvaluationReport) -> list[LabelReport]:
    """Defects with an AUROC of their own, the hardest first, so that colours do not run out on these."""
    return sorted((row for row in report.labels if row.image_auroc is not None), key=lambda row: row.image_auroc or 0.0)


def _mark_decisions(axes: Axes, report: EvaluationReport) -> None:
    """Crosses at the deployed threshold, and at that of the review, as long as their 95 % intervals."""
    decisions = report.decisions
    assert decisions is not None
    good = next(row.images for row in report.labels if row.label == GOOD)
    defective = report.images - good
    rejects, passing = decisions.false_rejects, decisions.escapes
    points = [("at the threshold", rejects, passing + decisions.defective_reviewed, "o")]
    if decisions.review_from is not None:
        points.append(("with those for review", rejects + decisions.good_reviewed, passing, "s"))
    for label, false_rejects, missed, marker in points:
        x, y = false_rejects / good, 1 - missed / defective
        across, along = binomial_interval(false_rejects, good), binomial_interval(defective - missed, defective)
        assert across is not None
        assert along is not None
        x_error, y_error = [[x - across[0]], [across[1] - x]], [[y - along[0]], [along[1] - y]]
        axes.errorbar(
            x, y, xerr=x_error, yerr=y_error, fmt=marker, color=DEFECT_COLOR, capsize=3, label=label, zorder=3
        )


def _thinned(curve: PixelCurve) -> tuple[Float64Array, Float64Array]:
    """As many points of the PRO curve as can be seen."""
    fpr, pro = curve.pro()
    shown = np.linspace(0, AUPRO_LIMIT, _DRAWN_POINTS)
    return shown, np.interp(shown, fpr, pro)
