"""The good part: a Bi2Te3 pellet on its holder, before optics and sensor.

Lengths are in *reference pixels*: the picture is 256 of them wide whatever its size, so that another size shows the
same scene finer or coarser. Reflectances are linear, 1.0 being white.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Holder = Literal["dark", "bright"]

HOLDERS: Final[tuple[Holder, ...]] = get_args(Holder)
REFERENCE: Final = 256.0


@dataclass(frozen=True, slots=True)
class Part:
    """One good part, lit and placed; the float arrays are `float32 [size, size]`."""

    size: int
    center: tuple[float, float]
    angle: float
    half_extent: tuple[float, float]
    polish_angle: float
    light_angle: float
    reflectance: Float32Array
    """What the camera sees, part and holder."""
    background: Float32Array
    """The holder alone, as it would be seen through missing material."""
    coverage: Float32Array
    """How much of a pixel the part covers, 0 to 1."""
    light: Float32Array
    """Illumination and vignetting, near 1."""
    defocus: float
    """Standard deviation of the blur."""

    @property
    def scale(self) -> float:
        """Pixels in a reference pixel."""
        return self.size / REFERENCE

    def to_picture(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bring `[n, 2]` points (x, y from the part's centre, along its edges) to the picture, in reference pixels."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        rotation = np.array([[cos, sin], [-sin, cos]])
        turned: NDArray[np.float64] = points @ rotation + np.asarray(self.center)
        return turned


def make_part(rng: np.random.Generator, size: int, holder: Holder) -> Part:
    """Draw a good part; every random number comes from `rng` and none of the scalars depends on `size`."""
    center = (REFERENCE / 2 + rng.normal(0, 1.8), REFERENCE / 2 + rng.normal(0, 1.8))
    angle = math.radians(rng.normal(0, 1.3))
    half_extent = (rng.normal(107, 1.2), rng.normal(103, 1.2))
    polish_angle = math.radians(rng.normal(8, 4)) + angle
    light_angle = math.radians(rng.normal(-125, 9))
    defocus = rng.uniform(0.5, 1.05)

    axis = ((np.arange(size, dtype=np.float32) + 0.5) * np.float32(REFERENCE / size)).astype(np.float32)
    x, y = np.meshgrid(axis - np.float32(center[0]), axis - np.float32(center[1]))
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = x * cos + y * sin, y * cos - x * sin

    distance, facing = _outline(rng, u, v, half_extent, light_angle - angle)
    coverage = np.clip(0.5 - distance / 1.6, 0, 1)
    surface = _surface(rng, u, v, polish_angle, angle)
    surface += _bevel(rng, distance, facing)
    background = _holder(rng, size, holder)
    background *= 1 - 0.35 * np.exp(-np.maximum(distance, 0) / 7)
    return Part(
        size=size,
        center=center,
        angle=angle,
        half_extent=half_extent,
        polish_angle=polish_angle,
        light_angle=light_angle,
        reflectance=background + (surface - background) * coverage,
        background=background,
        coverage=coverage,
        light=_light(rng, x, y, light_angle),
        defocus=defocus,
    )


def mottle(rng: np.random.Generator, size: int, cell: float) -> Float32Array:
    """Smooth noise `float32 [size, size]` of about unit variance, its features `cell` reference pixels wide."""
    cells = math.ceil(REFERENCE / cell) + 3
    grid = rng.standard_normal((cells, cells), np.float32) * np.float32(1.35)
    side, start = round(cells * cell * size / REFERENCE), round(cell * size / REFERENCE)
    interpolation = cv2.INTER_LINEAR if cell < 3 else cv2.INTER_CUBIC
    enlarged = cv2.resize(grid, (side, side), interpolation=interpolation)
    return np.asarray(enlarged[start : start + size, start : start + size], np.float32)


def streaks(
    rng: np.random.Generator, size: int, angle: float, width: float, length: float, bend: float = 0.0
) -> Float32Array:
    """Noise `float32 [size, size]` stretched along `angle`: streaks of `width` x `length` reference pixels."""
    reach = REFERENCE * 0.75
    grid = rng.standard_normal(
        (math.ceil(2 * reach / width) + 2, math.ceil(2 * reach / length) + 2), np.float32
    ) * np.float32(1.5)
    step, half = REFERENCE / size, REFERENCE / 2
    cos, sin = math.cos(angle + bend), math.sin(angle + bend)
    matrix = np.array(
        [
            [cos * step / length, sin * step / length, (reach - half * (cos + sin)) / length],
            [-sin * step / width, cos * step / width, (reach - half * (cos - sin)) / width],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(grid, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(warped, np.float32)


def _outline(
    rng: np.random.Generator,
    u: Float32Array,
    v: Float32Array,
    half_extent: tuple[float, float],
    light_angle: float,
) -> tuple[Float32Array, Float32Array]:
    """Signed distance to the sawn edge (negative inside) and how far the nearest edge faces the light, -1 to 1."""
    radius = np.float32(rng.uniform(2.5, 5))
    over_u = np.abs(u) - np.float32(half_extent[0]) + radius
    over_v = np.abs(v) - np.float32(half_extent[1]) + radius
    # Not cv2.magnitude: its last bit depends on where the array lies in memory.
    outside = np.sqrt(np.square(np.maximum(over_u, 0)) + np.square(np.maximum(over_v, 0)))
    distance = outside + np.minimum(np.maximum(over_u, over_v), 0) - radius
    distance += 0.2 * mottle(rng, len(u), 4) + 0.3 * mottle(rng, len(u), 23)
    sideways = 1 / (1 + np.exp(np.clip((over_v - over_u) / 2, -20, 20)))
    facing = sideways * np.sign(u) * np.float32(math.cos(light_angle))
    facing += (1 - sideways) * np.sign(v) * np.float32(math.sin(light_angle))
    return distance, np.asarray(facing, np.float32)


def _surface(
    rng: np.random.Generator, u: Float32Array, v: Float32Array, polish_angle: float, angle: float
) -> Float32Array:
    """The polished face: crystallites with cleavage lamellae, polish lines, mottling and specks."""
    size = len(u)
    surface = _cleavage(rng, u, v)
    surface += np.float32(rng.normal(0.50, 0.018))
    polish = np.float32(rng.uniform(0.011, 0.024))
    surface += polish * streaks(rng, size, polish_angle, 1.1, 150)
    surface += polish * streaks(rng, size, polish_angle, 2.6, 60, bend=rng.normal(0, 0.02))
    surface += np.float32(rng.uniform(0.4, 1.0)) * np.float32(0.02) * streaks(rng, size, angle, 22, 260)
    surface += np.float32(rng.uniform(0.008, 0.018)) * mottle(rng, size, 34)
    surface += np.float32(rng.uniform(0.006, 0.012)) * mottle(rng, size, 6)
    surface += np.float32(rng.uniform(0.010, 0.018)) * mottle(rng, size, 1.7)
    return surface + _specks(rng, size)


def _cleavage(rng: np.random.Generator, u: Float32Array, v: Float32Array) -> Float32Array:
    """Crystallites drawn out along the growth direction; each with its own tone and tilt of the lamellae."""
    size, count = len(u), int(rng.integers(9, 17))
    growth = math.radians(rng.normal(62, 5))
    cos, sin = np.float32(math.cos(growth)), np.float32(math.sin(growth))
    bend = mottle(rng, size, 45)
    along = u * cos + v * sin
    across = v * cos - u * sin + 0.8 * bend
    border_along, border_across = along + 5 * bend, across + 4 * mottle(rng, size, 30)

    seeds = rng.uniform(-150, 150, (count, 2)).astype(np.float32)
    nearest = np.full(u.shape, np.inf, np.float32)
    second = nearest.copy()
    label = np.zeros(u.shape, np.uint8)
    for index, (seed_along, seed_across) in enumerate(seeds):
        gap = np.square((border_along - seed_along) * np.float32(0.45)) + np.square(border_across - seed_across)
        np.copyto(label, index, where=gap < nearest)
        np.minimum(second, np.maximum(gap, nearest), out=second)
        np.minimum(nearest, gap, out=nearest)
    boundary = np.exp(-np.square((np.sqrt(second) - np.sqrt(nearest)) / np.float32(1.3)))

    tilt = rng.normal(0, 0.35, count).astype(np.float32)
    offset = rng.uniform(0, 400, count).astype(np.float32)
    tone = rng.normal(0, 0.022, count).astype(np.float32)
    strength = rng.uniform(0.35, 1.0, count).astype(np.float32)
    across = across + tilt[label] * along + offset[label]
    contrast = np.float32(rng.uniform(0.028, 0.046))
    lamellae = 0.6 * np.tanh(1.6 * _lamellae(rng, along, across, 9.0, 130))
    lamellae += 0.5 * _lamellae(rng, along, across, 3.2, 60)
    cleavage = tone[label] + contrast * strength[label] * lamellae
    cleavage -= np.float32(rng.uniform(0.0, 0.03)) * boundary
    return np.asarray(cv2.GaussianBlur(cleavage, (0, 0), 0.5 * size / REFERENCE), np.float32)


def _lamellae(
    rng: np.random.Generator, along: Float32Array, across: Float32Array, width: float, length: float
) -> Float32Array:
    grid = rng.standard_normal((math.ceil(900 / width), math.ceil(500 / length) + 1), np.float32) * np.float32(1.4)
    map_x, map_y = (along + 220) / np.float32(length), (across + 260) / np.float32(width)
    return np.asarray(cv2.remap(grid, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)


def _specks(rng: np.random.Generator, size: int) -> Float32Array:
    """Sparse fine pores and glints, a few hundredths darker or brighter: the material's own, no defect."""
    pores, glints = int(rng.poisson(70)), int(rng.poisson(35))
    place = np.minimum(rng.random((pores + glints, 2)) * size, size - 1).astype(np.intp)
    height = np.concatenate((rng.uniform(-0.07, -0.01, pores), rng.uniform(0.01, 0.09, glints)))
    sigma = 0.65 * size / REFERENCE
    points = np.zeros((size, size), np.float32)
    points[place[:, 0], place[:, 1]] = height * (2 * math.pi * sigma**2)
    return np.asarray(cv2.GaussianBlur(points, (0, 0), sigma), np.float32)


def _bevel(rng: np.random.Generator, distance: Float32Array, facing: Float32Array) -> Float32Array:
    """The broken edge: a band that shades with the light and a bright, uneven rim."""
    width = np.float32(rng.uniform(2.6, 4.2))
    band = 1 / (1 + np.exp(np.clip(-(distance + width) * 1.6, -20, 20)))
    rim = np.exp(-np.square((distance + width) / 1.1))
    uneven = np.clip(1 + 0.4 * mottle(rng, len(distance), 9), 0.1, 2)
    shade: Float32Array = band * (0.09 * facing - 0.03) + rim * uneven * (0.085 + 0.055 * facing)
    return shade * np.float32(rng.uniform(0.8, 1.2))


def _holder(rng: np.random.Generator, size: int, holder: Holder) -> Float32Array:
    level = rng.normal(0.15, 0.012) if holder == "dark" else rng.normal(0.78, 0.015)
    texture = 0.010 * mottle(rng, size, 28) + 0.012 * mottle(rng, size, 3)
    return np.asarray(texture + np.float32(level), np.float32)


def _light(rng: np.random.Generator, x: Float32Array, y: Float32Array, light_angle: float) -> Float32Array:
    """Gradient towards the lamp, vignetting, and the sheen of a face that is not quite level."""
    slope = np.float32(rng.normal(0.07, 0.022) / 128)
    cos, sin = np.float32(math.cos(light_angle)), np.float32(math.sin(light_angle))
    light = (x * cos + y * sin) * slope + 1
    light -= np.float32(rng.uniform(0.05, 0.12) / 2 / 128**2) * (x * x + y * y)
    sheen_x, sheen_y = rng.normal((128 * 0.35 * cos, 128 * 0.35 * sin), 30).astype(np.float32)
    width = np.float32(rng.uniform(35, 65))
    sheen = np.exp(-(np.square(x - sheen_x) + np.square(y - sheen_y)) / (2 * width * width))
    light += np.float32(rng.uniform(0.0, 0.09)) * sheen
    return light * np.float32(rng.normal(1.0, 0.025))
