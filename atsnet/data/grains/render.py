"""From a seed to an 8-bit picture: part, defect, optics, sensor."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from atsnet.data.grains.defects import DEFECTS, apply_defect
from atsnet.data.grains.part import Float32Array, Holder, Part, make_part

UInt8Array = NDArray[np.uint8]

GENERATOR_VERSION: Final = 4
"""Goes up whenever the same seed gives other bytes."""

CONTRAST_FLOOR: Final = 10.0
"""Least mean absolute difference, over a defect's mask, from the same part without the defect, in grey levels."""

TEXTURE_SHARE: Final = 2.0
"""The same difference is also at least this share of the standard deviation of the part's texture around the defect."""

MIN_SIZE: Final = 64

_SHOT_NOISE: Final = 0.019  # variance in grey levels squared a grey level: about 13,000 electrons at full scale
_READ_NOISE: Final = 0.75  # grey levels


@dataclass(frozen=True, slots=True)
class Grain:
    """A picture of one part and what is wrong with it."""

    image: UInt8Array
    """`uint8 [size, size]`."""
    mask: UInt8Array
    """`uint8 [size, size]`, 255 on the defect and 0 elsewhere; all 0 for a good part."""
    defect: str | None
    """One of `DEFECTS`, or None for a good part."""
    severity: float
    """0 (barely visible) to 1 (plain); 0 for a good part."""


def render_grain(
    seed: int, defect: str | None = None, size: int = 256, *, index: int = 0, holder: Holder = "dark"
) -> Grain:
    """Render part `index` of the series `seed`, bit for bit the same whatever was rendered before.

    Part, defect and sensor noise have random streams of their own: the good part of the same seed and index is the
    same picture beside the defect.

    Args:
        seed: The series, not negative.
        defect: One of `DEFECTS`, or None for a good part.
        size: Height and width in pixels, at least 64. The scene scales with it; the noise a pixel does not.
        index: The part within the series, not negative.
        holder: What the part lies on, darker or brighter than it.

    Raises:
        ValueError: Unknown defect, size too small, or a negative seed or index.
    """
    if defect is not None and defect not in DEFECTS:
        raise ValueError(f"unknown grain defect {defect!r}; have: {', '.join(DEFECTS)}")
    if size < MIN_SIZE:
        raise ValueError(f"grain size {size} is too small; at least {MIN_SIZE} pixels")
    if seed < 0 or index < 0:
        raise ValueError(f"seed {seed} and index {index} must not be negative")
    part_stream, defect_stream, noise_stream = np.random.SeedSequence(seed, spawn_key=(index,)).spawn(3)
    part = make_part(np.random.default_rng(part_stream), size, holder)
    noise = np.random.default_rng(noise_stream).standard_normal((size, size), np.float32)
    clean = _through_optics(part, part.reflectance)
    good = _expose(clean, noise)
    if defect is None:
        return Grain(good, np.zeros((size, size), np.uint8), None, 0.0)

    found = apply_defect(defect, np.random.default_rng(defect_stream), part)
    change = _through_optics(part, found.reflectance - part.reflectance) * _feather(found.mask, part.scale)
    image = _expose(clean + change, noise)
    wanted = max(CONTRAST_FLOOR, TEXTURE_SHARE * _texture(part, clean, found.mask))
    while (contrast := _contrast(image, good, found.mask)) < wanted:
        change *= 1.05 * wanted / max(contrast, wanted / 4)
        image = _expose(clean + change, noise)
    return Grain(image, found.mask, defect, found.severity)


def _through_optics(part: Part, reflectance: Float32Array) -> Float32Array:
    """Light and blur; grey levels from 0 to 255. Linear, so that a defect's change can be rendered alone."""
    lit = reflectance * part.light * np.float32(255)
    return np.asarray(cv2.GaussianBlur(lit, (0, 0), part.defocus * part.scale), np.float32)


def _expose(clean: Float32Array, noise: Float32Array) -> UInt8Array:
    signal = np.maximum(clean, 0)
    noisy = signal + np.sqrt(signal * np.float32(_SHOT_NOISE) + np.float32(_READ_NOISE**2)) * noise
    levels: UInt8Array = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return levels


def _feather(mask: UInt8Array, scale: float) -> Float32Array:
    """1 on the mask and its rim, 0 from 5 reference pixels away: a defect leaves the rest of the picture alone."""
    rim = cv2.dilate(mask, _disc(3 * scale))
    side = 2 * max(1, round(1.5 * scale)) + 1
    # In integers: a floating-point running sum leaves a residue far from the mask.
    return np.asarray(cv2.blur(rim, (side, side)), np.float32) / np.float32(255)


def _disc(radius: float) -> UInt8Array:
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _texture(part: Part, clean: Float32Array, mask: UInt8Array) -> float:
    """Standard deviation, in grey levels, of the good part around the mask, its edges left out."""
    face = cv2.erode(part.coverage, _disc(6 * part.scale)) > 0.5
    around = face & (cv2.dilate(mask, _disc(8 * part.scale)) > 0)
    return float(clean[around].std()) if around.any() else 0.0


def _contrast(image: UInt8Array, good: UInt8Array, mask: UInt8Array) -> float:
    return float(np.abs(image.astype(np.int16) - good)[mask > 0].mean())
