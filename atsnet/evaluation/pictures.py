"""Pictures of an evaluation, drawn without a display.

Heatmaps of all images share one absolute colour scale, 0 to twice the threshold: a scale of its own for each image
would light up the noise of good parts.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from atsnet.data.frames import FrameSet
from atsnet.data.layout import GOOD, Sample
from atsnet.evaluation.metrics import BoolArray, Float64Array, count_decisions, image_auroc, image_roc
from atsnet.imaging import Float32Array, InputGeometry, map_to_image, read_image

ROC_NAME: Final = "roc.png"
SCORES_NAME: Final = "scores.png"
EXAMPLES_NAME: Final = "examples.png"

SCALE_TOP: Final = 2.0
"""Calibrated map value shown in the brightest colour; 1.0 is the threshold."""

_ROWS: Final = 6
_MAX_SIDE: Final = 320
_OPACITY: Final = 0.65
_COLORS: Final = "inferno"


@dataclass(frozen=True)
class Scene:
    """A test set with what the network says of it."""

    samples: Sequence[Sample]
    scores: Float64Array
    """Raw, `[N]`."""
    maps: Float32Array
    """Raw, `float32 [N, h, w]`."""
    frames: FrameSet
    masks: Sequence[BoolArray | None]
    geometry: InputGeometry
    unit: float
    """Raw map value that is drawn as 1."""
    threshold: float | None
    """Raw score above which an image fails; None without calibration."""


def unit_without_calibration(maps: Float32Array, good: BoolArray) -> float:
    """The map value that 99 % of the good images' peaks stay below (of all, if none is good): a scale, no threshold."""
    peaks = maps.max(axis=(1, 2))
    return max(float(np.quantile(peaks[good] if good.any() else peaks, 0.99)), 1e-12)


def draw_roc(path: Path, defective: BoolArray, scores: Float64Array, threshold: float | None) -> None:
    """The ROC curve over images, with the working point; an empty picture that says so where it is not defined."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="false-reject rate (good images that fail)", ylabel="detection rate (defective images that fail)")
    curve = image_roc(defective, scores)
    if curve is None:
        axes.text(0.5, 0.5, "not defined: the test set needs\ngood and defective images", ha="center", va="center")
    else:
        axes.plot((0, 1), (0, 1), color="0.8", linewidth=1)
        axes.plot(*curve, color="tab:blue", label=f"AUROC {image_auroc(defective, scores):.4f}")
        if threshold is not None:
            counts = count_decisions(defective, scores, threshold)
            point = (counts.false_rejects / counts.good, 1 - counts.escapes / counts.defective)
            axes.plot(*point, "o", color="tab:red", label="at the threshold")
        axes.legend(loc="lower right")
    axes.set_title("Images: detection against false rejects")
    _save(figure, path)


def draw_scores(path: Path, labels: Sequence[str], scores: Float64Array, threshold: float | None) -> None:
    """A histogram of the scores of each label, stacked in rows, calibrated where there is a threshold."""
    values = scores / (threshold or 1.0)
    names = sorted(set(labels), key=lambda label: (label != GOOD, label))
    figure = Figure(figsize=(7, 1.2 + 1.1 * len(names)), layout="constrained")
    rows = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    logarithmic = bool(values.min() > 0 and values.max() > 10 * values.min())
    # The threshold belongs to what the bins span, or scores that are all alike would be bars too thin to be seen.
    span = values if threshold is None else np.append(values, 1.0)
    edges = np.histogram_bin_edges(np.log(span) if logarithmic else span, bins=50)
    edges = np.exp(edges) if logarithmic else edges
    edges[0], edges[-1] = min(edges[0], span.min()), max(edges[-1], span.max())
    for axes, name in zip(rows, names, strict=True):
        chosen = values[[label == name for label in labels]]
        axes.hist(chosen, bins=edges.tolist(), color="tab:green" if name == GOOD else "tab:red", alpha=0.75)
        axes.set_ylabel(f"{_plain(name)}\n({len(chosen)})", rotation=0, ha="right", va="center")
        if logarithmic:
            axes.set_xscale("log")
        if threshold is not None:
            axes.axvline(1.0, color="black", linewidth=1, linestyle="--")
    rows[0].set_title("Scores of each label" + (", threshold dashed" if threshold is not None else ""))
    rows[-1].set_xlabel("raw score" if threshold is None else "calibrated score (1 is the threshold)")
    _save(figure, path)


def draw_examples(path: Path, scene: Scene) -> None:
    """Images with heatmap and mask, in three columns: lowest defective, highest good, upper half of defective."""
    defective = np.array([sample.defective for sample in scene.samples])
    ascending = np.argsort(scene.scores, kind="stable")
    of_defects, of_good = ascending[defective[ascending]], ascending[~defective[ascending]]
    upper = of_defects[len(of_defects) // 2 :]
    hits = upper[np.unique(np.linspace(0, len(upper) - 1, min(_ROWS, len(upper))).astype(int))]
    groups = {
        "Defective, lowest scores": of_defects[:_ROWS],
        "Good, highest scores": of_good[::-1][:_ROWS],
        "Defective, upper half": hits[::-1],
    }
    groups = {title: chosen for title, chosen in groups.items() if len(chosen)}
    rows = max(map(len, groups.values()))
    figure = Figure(figsize=(4.6 * len(groups), 1.75 * rows + 1), layout="constrained")
    parts = figure.subfigures(1, len(groups), squeeze=False)[0]
    for part, (title, chosen) in zip(parts, groups.items(), strict=True):
        part.suptitle(title)
        grid = part.subplots(rows, 3, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for row, index in zip(grid, chosen, strict=False):
            _draw_row(row, scene, int(index))
        scale = ScalarMappable(Normalize(0, SCALE_TOP), _COLORS)
        unit = "threshold" if scene.threshold is not None else "upper end of good"
        part.colorbar(scale, ax=grid, orientation="horizontal", fraction=0.02, aspect=50, label=f"1 = {unit}")
    _save(figure, path)


def _draw_row(row: Sequence[Any], scene: Scene, index: int) -> None:
    sample, score = scene.samples[index], float(scene.scores[index])
    image = _small(read_image(sample.path))
    height, width = scene.frames.sizes[index]
    values = _small(map_to_image(scene.maps[index], scene.frames.placements[index], scene.geometry, height, width))
    values = values / np.float32(scene.unit)
    background: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255}
    picture = image if image.ndim == 2 else image[:, :, ::-1]
    row[0].imshow(picture, **background)
    row[1].imshow(picture, **background)
    row[1].imshow(values, cmap=_COLORS, vmin=0, vmax=SCALE_TOP, alpha=np.clip(values, 0, 1) * _OPACITY)
    if values.min() < 1 <= values.max() and min(values.shape) > 1:
        row[1].contour(values, levels=[1.0], colors="lime", linewidths=0.7)
    mask = scene.masks[index]
    if mask is None:
        row[2].text(0.5, 0.5, "no mask", ha="center", va="center", fontsize=8)
    else:
        row[2].imshow(_small(mask.astype(np.uint8) * np.uint8(255)), **background)
    row[0].set_title(_plain(sample.name.removeprefix("test/")), fontsize=6)
    if scene.threshold is None:
        row[1].set_title(f"raw score {score:.3g}", fontsize=7)
    else:
        fails = score > scene.threshold
        color = "tab:green" if fails == sample.defective else "tab:red"
        verdict = "fail" if fails else "pass"
        row[1].set_title(f"{score / scene.threshold:.3f} {verdict}", fontsize=7, color=color)


def _small(array: Any) -> Any:
    scale = _MAX_SIDE / max(array.shape[:2])
    if scale >= 1:
        return array
    height, width = (max(1, round(side * scale)) for side in array.shape[:2])
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)


def _plain(text: str) -> str:
    """A name from the data, not to be read as a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # Names in a script that the font lacks are drawn as boxes; the tables have them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
