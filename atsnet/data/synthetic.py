"""Synthetic anomalies pasted on normal frames: what detectors are chosen by, so that no real defect is looked at.

Each kind is drawn at many sizes and contrasts, down to ones that a person would miss. None of them imitates the
defects of a particular data set. Related: cut-and-paste of Li et al., "CutPaste" (CVPR 2021); masks from smooth noise
as in Zavrtanik, Kristan, Skočaj, "DRAEM" (ICCV 2021).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from atsnet.imaging import Float32Array, UInt8Array

BoolArray = NDArray[np.bool_]

MIN_CHANGE: Final = 3
"""Grey levels by which a pixel must change to count as anomalous."""
MIN_PIXELS: Final = 12
"""An anomaly with fewer changed pixels is drawn again."""
BORDER_SHARE: Final = 1 / 3
"""Share of the anomalies that are centred within `BORDER_PIXELS` of the part's border."""
BORDER_PIXELS: Final = 12
_ATTEMPTS: Final = 50


@dataclass(frozen=True, slots=True)
class SyntheticSet:
    """Frames with one anomaly each."""

    pixels: UInt8Array
    """`uint8 [N, H, W, C]`; the inspect mask is that of the normal frame."""
    masks: BoolArray
    """`bool [N, H, W]`, True where the anomaly changed the image."""
    kinds: tuple[str, ...]
    """Kind of each frame's anomaly, a key of `KINDS`."""


def paste_anomalies(
    frames: UInt8Array,
    rng: np.random.Generator,
    kinds: tuple[str, ...] | None = None,
    *,
    sources: UInt8Array | None = None,
) -> SyntheticSet:
    """Paste one anomaly on each frame, the kinds in turn.

    Args:
        frames: Normal frames, `uint8 [N, H, W, C]` of `atsnet.imaging`.
        rng: Source of every choice.
        kinds: Keys of `KINDS`; all by default.
        sources: Frames that foreign texture is cut from; `frames` themselves by default.

    Raises:
        ValueError: No visible anomaly could be drawn on a frame, which is black or hardly inspected, say.
    """
    kinds = kinds or tuple(KINDS)
    sources = frames if sources is None else sources
    pixels, masks = frames.copy(), np.zeros(frames.shape[:3], np.bool_)
    names = tuple(kinds[index % len(kinds)] for index in range(len(frames)))
    for index, kind in enumerate(names):
        inspect = frames[index, :, :, -1] >= 128
        for _ in range(_ATTEMPTS if inspect.any() else 0):
            source = sources[rng.integers(len(sources))][:, :, :-1].astype(np.float32)
            image = frames[index, :, :, :-1].astype(np.float32)
            changed = np.clip(np.rint(KINDS[kind](image, inspect, source, rng)), 0, 255).astype(np.uint8)
            changed[~inspect] = frames[index, :, :, :-1][~inspect]
            difference = np.abs(changed.astype(np.int16) - frames[index, :, :, :-1]).max(axis=2)
            mask = difference >= MIN_CHANGE
            if int(mask.sum()) >= MIN_PIXELS:
                pixels[index, :, :, :-1], masks[index] = changed, mask
                break
        else:
            raise ValueError(f"no visible {kind} could be drawn on frame {index}")
    return SyntheticSet(pixels, masks, names)


def _spot(image: Float32Array, inspect: BoolArray, _source: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Pit or grain of dirt: a small soft ellipse, darker or brighter."""
    radius = _log_uniform(rng, 1.2, 10)
    alpha = _soft_ellipse(inspect.shape, _place(inspect, rng), (radius, radius * rng.uniform(0.4, 1)), rng)
    return image + alpha * _contrast(rng, 10, 110)


def _crack(image: Float32Array, inspect: BoolArray, _source: Float32Array, rng: np.random.Generator) -> Float32Array:
    """A thin wandering line."""
    length, angle = int(_log_uniform(rng, 15, 110)), rng.uniform(0, 2 * np.pi)
    angles = angle + np.cumsum(rng.normal(0, rng.uniform(0.03, 0.35), length))
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return image + _stroke(inspect, np.cumsum(steps, axis=0), rng) * _contrast(rng, 10, 90)


def _scratch(image: Float32Array, inspect: BoolArray, _source: Float32Array, rng: np.random.Generator) -> Float32Array:
    """A straight line."""
    angle, length = rng.uniform(0, 2 * np.pi), _log_uniform(rng, 15, 110)
    ends = np.array([[0, 0], [np.cos(angle), np.sin(angle)]]) * length
    return image + _stroke(inspect, ends, rng) * _contrast(rng, 10, 70)


def _foreign(image: Float32Array, inspect: BoolArray, source: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Texture from elsewhere, turned, under an irregular mask."""
    turned = np.rot90(source, int(rng.integers(4))) if source.shape[0] == source.shape[1] else source[::-1]
    rolled = np.roll(turned, tuple(rng.integers(0, source.shape[:2])), (0, 1))
    alpha = _patch(inspect, rng, 5, 40) * rng.uniform(0.3, 1)
    foreign = np.clip(rolled + np.float32(rng.normal(0, 12)), 0, 255)
    return np.asarray(image * (1 - alpha) + foreign * alpha, np.float32)


def _worn(image: Float32Array, inspect: BoolArray, _source: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Texture smeared away, or roughened."""
    alpha = _patch(inspect, rng, 6, 40)
    if rng.random() < 0.5:
        other = np.asarray(cv2.GaussianBlur(image, (0, 0), _log_uniform(rng, 1.5, 6)), np.float32).reshape(image.shape)
    else:
        noise = rng.normal(0, 1, (*inspect.shape, 1)).astype(np.float32)
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), _log_uniform(rng, 0.5, 2)), np.float32)[:, :, None]
        other = np.asarray(image + noise / noise.std() * _log_uniform(rng, 5, 40), np.float32)
    return image * (1 - alpha) + other * alpha


def _stain(image: Float32Array, inspect: BoolArray, _source: Float32Array, rng: np.random.Generator) -> Float32Array:
    """An irregular area a little darker or brighter, with a soft or a hard edge."""
    return image + _patch(inspect, rng, 5, 50) * _contrast(rng, 6, 60)


def _chip(image: Float32Array, inspect: BoolArray, _source: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Material missing or broken: flat, lit from one side, with a sharp irregular edge."""
    alpha = (_patch(inspect, rng, 4, 35) > 0.5).astype(np.float32)
    rows, columns = np.indices(inspect.shape, np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (rows * np.sin(angle) + columns * np.cos(angle))[:, :, None] * rng.uniform(0, 1.0)
    flat = float(image[inspect].mean()) + _contrast(rng, 10, 90) + slope - slope[alpha > 0].mean() if alpha.any() else 0
    rough = cv2.GaussianBlur(rng.normal(0, 1, inspect.shape).astype(np.float32), (0, 0), 1.5)[:, :, None]
    return image * (1 - alpha) + (flat + rough * rng.uniform(0, 30)) * alpha


def _warped(image: Float32Array, inspect: BoolArray, _source: Float32Array, rng: np.random.Generator) -> Float32Array:
    """A dent: the picture pushed aside around a place."""
    row, column = _place(inspect, rng)
    radius, reach = _log_uniform(rng, 6, 30), rng.uniform(0.25, 0.8)
    rows, columns = np.indices(inspect.shape, np.float32)
    weight = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (radius / 2) ** 2))
    angle = rng.uniform(0, 2 * np.pi)
    columns_from = columns + (weight * radius * reach * np.cos(angle)).astype(np.float32)
    rows_from = rows + (weight * radius * reach * np.sin(angle)).astype(np.float32)
    moved = cv2.remap(image, columns_from, rows_from, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.float32).reshape(image.shape)


_Kind = Callable[[Float32Array, BoolArray, Float32Array, np.random.Generator], Float32Array]

KINDS: Final[Mapping[str, _Kind]] = MappingProxyType(
    {
        "spot": _spot,
        "crack": _crack,
        "scratch": _scratch,
        "foreign": _foreign,
        "worn": _worn,
        "stain": _stain,
        "chip": _chip,
        "warped": _warped,
    }
)
"""What can be pasted; each takes image `float32 [H, W, C]`, inspect mask, foreign image and generator."""


def _place(inspect: BoolArray, rng: np.random.Generator) -> tuple[int, int]:
    """An inspected pixel; every third time one near the border, where parts chip and break."""
    allowed = inspect
    if rng.random() < BORDER_SHARE:
        deep = cv2.erode(
            inspect.astype(np.uint8),
            np.ones((2 * BORDER_PIXELS + 1,) * 2, np.uint8),
            borderType=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
        allowed = inspect & (deep == 0)
    rows, columns = np.nonzero(allowed)
    chosen = int(rng.integers(len(rows)))
    return int(rows[chosen]), int(columns[chosen])


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _contrast(rng: np.random.Generator, low: float, high: float) -> float:
    """Grey levels, darker or brighter."""
    return _log_uniform(rng, low, high) * (1 if rng.random() < 0.5 else -1)


def _soft_ellipse(
    shape: tuple[int, ...], centre: tuple[int, int], radii: tuple[float, float], rng: np.random.Generator
) -> Float32Array:
    angle = rng.uniform(0, np.pi)
    rows, columns = np.indices(shape, np.float32)
    rows, columns = rows - centre[0], columns - centre[1]
    along = (columns * np.cos(angle) + rows * np.sin(angle)) / radii[0]
    across = (rows * np.cos(angle) - columns * np.sin(angle)) / radii[1]
    edge = rng.uniform(1.5, 8)
    return np.asarray(1 / (1 + np.exp(np.minimum(edge * (np.hypot(along, across) - 1), 50))), np.float32)[:, :, None]


def _stroke(inspect: BoolArray, path: NDArray[np.float64], rng: np.random.Generator) -> Float32Array:
    """Opacity of a polyline, centred on an inspected place, `[H, W, 1]`."""
    row, column = _place(inspect, rng)
    points = path - path.mean(axis=0) + (column, row)
    canvas = np.zeros(inspect.shape, np.uint8)
    line = np.rint(points * 16).astype(np.int32).reshape(-1, 1, 2)
    thickness = int(rng.integers(1, 4))
    cv2.polylines(canvas, [line], isClosed=False, color=255, thickness=thickness, lineType=cv2.LINE_AA, shift=4)
    soft = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.2))
    return np.asarray(soft / 255, np.float32)[:, :, None]


def _patch(inspect: BoolArray, rng: np.random.Generator, low: float, high: float) -> Float32Array:
    """Opacity of an irregular area with radii between `low` and `high` pixels, `[H, W, 1]`."""
    radius = _log_uniform(rng, low, high)
    base = _soft_ellipse(inspect.shape, _place(inspect, rng), (radius, radius * rng.uniform(0.35, 1)), rng)
    noise = cv2.GaussianBlur(rng.normal(0, 1, inspect.shape).astype(np.float32), (0, 0), radius / rng.uniform(2, 5))
    ragged = base + rng.uniform(0, 0.5) * (noise / noise.std())[:, :, None] * base * (1 - base) * 4
    softness = _log_uniform(rng, 0.02, 0.5)
    return np.asarray(np.clip((ragged - 0.5) / softness + 0.5, 0, 1), np.float32)
