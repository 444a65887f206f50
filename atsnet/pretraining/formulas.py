"""A bank of procedural textures, each drawn from a random formula of its own.

Formula-supervised pretraining (Kataoka et al., "Pre-training without Natural Images", IJCV 2022) lets a network learn
to tell formulas apart instead of photographs. Ours are stochastic textures of what micrographs are made of: filtered
noise with class-specific spectrum and non-linearity, warped noise, overlapping shapes and jittered lattices.
"""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np

from atsnet.imaging import Float32Array, UInt8Array

TILE: Final = 256
"""Side of a texture tile in pixels; tiles wrap around without a seam."""

_FAMILIES: Final = ("spectrum", "warped", "leaves", "lattice")
_FAMILY_SHARES: Final = (0.5, 0.2, 0.2, 0.1)


def texture_bank(classes: int, tiles: int, seed: int) -> UInt8Array:
    """Synthesise textures.

    Args:
        classes: Number of formulas.
        tiles: Independent samples of each formula.
        seed: Fixes formulas and samples.

    Returns:
        `uint8 [classes, tiles, TILE, TILE]`; every tile has mean 128 and standard deviation of about 50.
    """
    bank = np.empty((classes, tiles, TILE, TILE), np.uint8)
    for number in range(classes):
        for tile in range(tiles):
            # One stream draws the formula, the same for all tiles of a class; the other its sample.
            formula = np.random.default_rng((seed, number))
            sample = np.random.default_rng((seed, number, tile + 1))
            bank[number, tile] = _to_uint8(_texture(formula, sample))
    return bank


def _texture(formula: np.random.Generator, sample: np.random.Generator) -> Float32Array:
    family = formula.choice(_FAMILIES, p=_FAMILY_SHARES)
    if family == "spectrum":
        return _pointwise(_filtered_noise(formula, sample), formula)
    if family == "warped":
        return _warped(formula, sample)
    if family == "leaves":
        return _dead_leaves(formula, sample)
    return _lattice(formula, sample)


def _filtered_noise(formula: np.random.Generator, sample: np.random.Generator) -> Float32Array:
    """Gaussian noise through a filter of one to three lobes in the frequency plane; unit variance."""
    fy = np.fft.fftfreq(TILE)[:, None]
    fx = np.fft.rfftfreq(TILE)[None, :]
    radius = np.hypot(fy, fx) + 1e-6
    angle = np.arctan2(fy, fx)
    share, slope = 0.3 * formula.uniform(0, 1), formula.uniform(0.5, 1.5)
    cloud = radius**-slope
    cloud[0, 0] = 0
    amplitude = share * cloud / np.sqrt((cloud**2).sum())
    for _ in range(formula.integers(1, 4)):
        centre = np.exp(formula.uniform(np.log(1 / 48), np.log(1 / 3)))
        octaves = formula.uniform(0.15, 0.8)
        lobe = np.exp(-0.5 * (np.log2(radius / centre) / octaves) ** 2)
        if formula.random() < 0.65:
            spread = formula.uniform(0.06, 0.6)
            distance = np.angle(np.exp(2j * (angle - formula.uniform(0, np.pi)))) / 2
            lobe = lobe * np.exp(-0.5 * (distance / spread) ** 2)
        amplitude = amplitude + formula.uniform(0.3, 1) * lobe / np.sqrt((lobe**2).sum())
    amplitude[0, 0] = 0
    noise = np.fft.irfft2(np.fft.rfft2(sample.standard_normal((TILE, TILE))) * amplitude, s=(TILE, TILE))
    unit: Float32Array = (noise / noise.std()).astype(np.float32)
    return unit


def _pointwise(noise: Float32Array, formula: np.random.Generator) -> Float32Array:
    gain, level = formula.uniform(1.5, 4), formula.uniform(0.3, 1.2)
    shapes: tuple[Callable[[Float32Array], Float32Array], ...] = (
        lambda x: x,
        lambda x: np.abs(x),
        lambda x: -np.abs(x),
        lambda x: np.tanh(gain * x),
        lambda x: np.sin(gain * x),
        lambda x: np.maximum(x - level, 0),
        lambda x: np.minimum(x + level, 0),
    )
    return shapes[formula.integers(len(shapes))](noise)


def _warped(formula: np.random.Generator, sample: np.random.Generator) -> Float32Array:
    """One noise displaced by two others (domain warping)."""
    base = _filtered_noise(formula, sample)
    strength = formula.uniform(2, 10)
    shift_x = _blurred_around(_filtered_noise(formula, sample)) * strength
    shift_y = _blurred_around(_filtered_noise(formula, sample)) * strength
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
    warped = cv2.remap(base, x + shift_x, y + shift_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return _pointwise(np.asarray(warped, np.float32), formula)


def _blurred_around(tile: Float32Array) -> Float32Array:
    """Blur a tile that wraps around; OpenCV's filters know no such border."""
    margin = 12
    soft = cv2.GaussianBlur(np.pad(tile, margin, mode="wrap"), (0, 0), 3)
    return np.asarray(soft[margin:-margin, margin:-margin], np.float32)


def _dead_leaves(formula: np.random.Generator, sample: np.random.Generator) -> Float32Array:
    """Overlapping shapes of one kind (Lee, Mumford, Huang 2001)."""
    kind = int(formula.integers(4))
    size = np.exp(formula.uniform(np.log(3), np.log(16)))
    aspect = formula.uniform(1, 5)
    heading, wobble = formula.uniform(0, 180), formula.choice([8.0, 40.0, 180.0])
    levels = formula.uniform(0, 255, formula.integers(2, 6))
    count = int(formula.uniform(0.6, 2.5) * TILE * TILE / (size * size * aspect))
    canvas = np.full((2 * TILE, 2 * TILE), levels[0], np.float32)
    for _ in range(count):
        x, y = sample.uniform(0, TILE, 2)
        length = size * sample.uniform(0.6, 1.4)
        angle = heading + sample.uniform(-wobble, wobble)
        level = float(sample.choice(levels) + sample.normal(0, 8))
        # Drawn four times, a tile apart, so that the tile cut from the middle wraps around.
        for dx in (0, TILE):
            for dy in (0, TILE):
                _draw_leaf(canvas, kind, (x + dx, y + dy), length, aspect, angle, level)
    return _middle(canvas, formula)


def _draw_leaf(
    canvas: Float32Array,
    kind: int,
    centre: tuple[float, float],
    length: float,
    aspect: float,
    angle: float,
    level: float,
) -> None:
    point = (round(centre[0]), round(centre[1]))
    if kind == 0:
        cv2.circle(canvas, point, max(1, round(length / 2)), level, -1)
    elif kind == 1:
        cv2.ellipse(canvas, point, (round(length * aspect / 2), max(1, round(length / 2))), angle, 0, 360, level, -1)
    elif kind == 2:
        box = cv2.boxPoints((centre, (length * aspect, length), angle))
        cv2.fillConvexPoly(canvas, box.round().astype(np.int32), level)
    else:
        cv2.circle(canvas, point, max(2, round(length / 2)), level, max(1, round(length / 6)))


def _lattice(formula: np.random.Generator, sample: np.random.Generator) -> Float32Array:
    """A jittered grid of discs, rings, bricks or strokes."""
    pitch = int(formula.choice([8, 16, 32]))
    kind = int(formula.integers(4))
    jitter = formula.uniform(0, 0.25) * pitch
    size = formula.uniform(0.3, 0.9) * pitch
    heading = formula.uniform(0, 180)
    canvas = np.zeros((2 * TILE, 2 * TILE), np.float32)
    offsets = sample.normal(0, jitter, (TILE // pitch, TILE // pitch, 2))
    for row in range(2 * TILE // pitch):
        for column in range(2 * TILE // pitch):
            dx, dy = offsets[row % (TILE // pitch), column % (TILE // pitch)]
            x = column * pitch + dx + (pitch / 2 if row % 2 else 0)
            _draw_leaf(canvas, kind, (x, row * pitch + dy), size, 1.8 if kind in (1, 2) else 1.0, heading, 255.0)
    grid = _middle(canvas, formula)
    return grid + sample.normal(0, formula.uniform(2, 40), grid.shape).astype(np.float32)


def _middle(canvas: Float32Array, formula: np.random.Generator) -> Float32Array:
    """The tile in the middle of a canvas of twice its size, softened a little."""
    half = TILE // 2
    soft = np.asarray(cv2.GaussianBlur(canvas, (0, 0), formula.uniform(0.5, 1.5)), np.float32)
    return soft[half : half + TILE, half : half + TILE]


def _to_uint8(texture: Float32Array) -> UInt8Array:
    normalised = (texture - texture.mean()) / (texture.std() + 1e-6)
    levels: UInt8Array = np.clip(128 + 50 * normalised, 0, 255).astype(np.uint8)
    return levels
