"""Images of a test set with their heatmaps laid over: the worst misses, the worst false rejects, a typical one of each.

All heatmaps share one absolute colour scale, 0 to twice the threshold: a scale of its own for each image would light up
the noise of good parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from atsnet.evaluation.assessment import TestSet, Thresholds
from atsnet.evaluation.charts import DEFECT_COLOR, plain, save
from atsnet.evaluation.metrics import BoolArray, Float64Array
from atsnet.imaging import Float32Array, read_image

MISSES_NAME: Final = "misses.png"
FALSE_REJECTS_NAME: Final = "false_rejects.png"
TYPICAL_NAME: Final = "typical.png"

SCALE_TOP: Final = 2.0
"""Calibrated map value shown in the brightest colour; 1.0 is the threshold."""

_SHOWN: Final = 12
_COLUMNS: Final = 4
_MAX_SIDE: Final = 320
_NAME_LENGTH: Final = 32
_OPACITY: Final = 0.65
_HEATMAP: Final = "inferno"
_OUTLINE: Final = "cyan"
_CONTOUR: Final = "lime"


@dataclass(frozen=True)
class Scene:
    """A test set with what the network says of it."""

    test_set: TestSet
    scores: Float64Array
    """Raw, `[N]`."""
    maps: Float32Array
    """Raw, `float32 [N, h, w]`."""
    unit: float
    """Raw map value that is drawn as 1."""
    thresholds: Thresholds | None
    """None without calibration."""


def unit_without_calibration(maps: Float32Array, good: BoolArray) -> float:
    """The map value that 99 % of the good images' peaks stay below (of all, if none is good): a scale, no threshold."""
    peaks = maps.max(axis=(1, 2))
    return max(float(np.quantile(peaks[good] if good.any() else peaks, 0.99)), 1e-12)


def worst_misses(scene: Scene) -> list[int]:
    """The defective images with the lowest scores, lowest first."""
    ascending = np.argsort(scene.scores, kind="stable")
    return [int(index) for index in ascending[scene.test_set.defective[ascending]][:_SHOWN]]


def worst_false_rejects(scene: Scene) -> list[int]:
    """The good images with the highest scores, highest first."""
    descending = np.argsort(-scene.scores, kind="stable")
    return [int(index) for index in descending[~scene.test_set.defective[descending]][:_SHOWN]]


def typical(scene: Scene) -> list[int]:
    """The image with the median score of each label, good first."""
    labels = np.array([sample.label for sample in scene.test_set.samples])
    ascending = np.argsort(scene.scores, kind="stable")
    of_each = [ascending[labels[ascending] == label] for label in scene.test_set.labels]
    return [int(indices[(len(indices) - 1) // 2]) for indices in of_each]


def draw_overlays(path: Path, scene: Scene, chosen: Sequence[int]) -> None:
    """Draw images, each beside its overlay: heatmap, contour at the threshold, outline of the mask, score, verdict."""
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    pairs = [_prepare(scene, index) for index in chosen]
    aspect = float(np.clip(np.median([image.shape[0] / image.shape[1] for image, *_ in pairs]), 0.75, 2))
    side = 1.6
    figure = Figure(figsize=(2 * side * columns + 0.4, rows * (side * aspect + 0.45) + 0.9), layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for position, (index, pair) in enumerate(zip(chosen, pairs, strict=True)):
        row, column = divmod(position, columns)
        _draw(grid[row, 2 * column : 2 * column + 2], scene, index, *pair)
    unit = "threshold" if scene.thresholds else "upper end of good"
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, SCALE_TOP), _HEATMAP),
        ax=grid,
        orientation="horizontal",
        fraction=0.03,
        aspect=60,
        extend="max",
        label=f"map value, on the same scale in every picture (1 = {unit})",
    )
    bar.ax.axvline(1, color=_CONTOUR)
    lines = [Line2D([], [], color=_CONTOUR, label=f"map at the {unit}"), Line2D([], [], color=_OUTLINE, label="mask")]
    figure.legend(handles=lines, loc="outside upper right", ncols=2, fontsize="small", facecolor="0.3", labelcolor="w")
    save(figure, path)


def _prepare(scene: Scene, index: int) -> tuple[Any, Float32Array, BoolArray | None]:
    """Image, map in units of the threshold, and mask, all equally small."""
    test_set = scene.test_set
    image = read_image(test_set.samples[index].path)
    values = test_set.map_at_original_size(scene.maps[index], index) / np.float32(scene.unit)
    mask = test_set.masks[index]
    height, width = image.shape[:2]
    scale = min(1.0, _MAX_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    covered = None if mask is None else cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    return small, np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32), covered


def _draw(pair: Any, scene: Scene, index: int, image: Any, values: Float32Array, mask: BoolArray | None) -> None:
    sample, score = scene.test_set.samples[index], float(scene.scores[index])
    picture: dict[str, Any] = {"X": image if image.ndim == 2 else image[:, :, ::-1], "cmap": "gray", "vmax": 255}
    for axes in pair:
        axes.imshow(**picture, vmin=0)
    overlay = pair[1]
    overlay.imshow(values, cmap=_HEATMAP, vmin=0, vmax=SCALE_TOP, alpha=np.clip(values, 0, 1) * _OPACITY)
    outlines = [(values, 1.0, _CONTOUR)]
    if mask is not None:
        outlines.append((mask.astype(np.float32), 0.5, _OUTLINE))
    for field, level, color in outlines:
        _outline(overlay, field, level, color)
    name = sample.name.removeprefix("test/")
    pair[0].set_title(plain(name if len(name) <= _NAME_LENGTH else "…" + name[1 - _NAME_LENGTH :]), fontsize=6)
    if sample.defective and mask is None:
        overlay.text(0.02, 0.02, "no mask", color="white", fontsize=6, transform=overlay.transAxes)
    if scene.thresholds is None:
        overlay.set_title(f"raw score {score:.3g}", fontsize=7)
    else:
        verdict = scene.thresholds.verdict(score)
        wrong = verdict == ("pass" if sample.defective else "fail")
        style = {"color": DEFECT_COLOR, "fontweight": "bold"} if wrong else {}
        overlay.set_title(f"{score / scene.thresholds.score:.3f} {verdict}", fontsize=7, **style)


def _outline(axes: Any, values: Float32Array, level: float, color: str) -> None:
    """Draw a line round the pixels that reach a level, along the picture's edge too."""
    if values.max() < level:
        return
    height, width = values.shape
    # Half a pixel outside of the centres is the edge of the picture.
    columns, rows = (np.clip(np.arange(-1, side + 1), -0.5, side - 0.5) for side in (width, height))
    framed = np.pad(values, 1)
    axes.contour(columns, rows, framed, levels=[level], colors=color, linewidths=0.8)
