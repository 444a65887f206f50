"""The five defects: each changes a good part's reflectance and says exactly where.

A defect is drawn in the part's own coordinates with sub-pixel coverage, never copied from a picture. Its severity
sets contrast and extent together; the draw leans to the subtle end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from atsnet.data.grains.part import Float32Array, Part, mottle

UInt8Array = NDArray[np.uint8]
Points = NDArray[np.float64]

_LEAST_AREA: Final = 40  # square reference pixels
_SUPERSAMPLING: Final = 4
_SUBPIXEL_BITS: Final = 4


@dataclass(frozen=True, slots=True)
class AppliedDefect:
    """A part with a defect: reflectance `float32 [size, size]`, mask `uint8 [size, size]`, severity 0 to 1."""

    reflectance: Float32Array
    mask: UInt8Array
    severity: float


def apply_defect(name: str, rng: np.random.Generator, part: Part) -> AppliedDefect:
    """Draw the defect `name`, one of `DEFECTS`, on a part. Its mask lies within the part.

    A draw that nearly missed the part, such as a crack that left it at once, is drawn again.
    """
    inside = part.coverage > 0.5
    while True:
        severity = float(rng.beta(1.4, 2.0))
        reflectance, footprint = _MAKERS[name](rng, part, severity)
        seen = cv2.GaussianBlur(footprint, (0, 0), 0.6 * part.scale)
        threshold = min(0.3, 0.5 * float((seen * inside).max()))
        mask = ((seen > threshold) & inside).astype(np.uint8) * np.uint8(255)
        if np.count_nonzero(mask) >= _LEAST_AREA * part.scale**2:
            return AppliedDefect(reflectance, mask, severity)


def _crack(rng: np.random.Generator, part: Part, severity: float) -> tuple[Float32Array, Float32Array]:
    """A thin dark line that wanders, forks and tapers, with one lip raised into the light."""
    length = _between(36, 105, severity) * rng.uniform(0.8, 1.25)
    width = _between(1.2, 2.2, severity)
    if rng.random() < 0.6:
        start, heading = _on_edge(rng, part)
        heading += rng.normal(0, 0.5)
    else:
        start, heading = _inside(rng, part, 0.7), rng.uniform(0, 2 * math.pi)
    trunk = _walk(rng, start, heading, length, wander=0.13, kink=0.55)
    lines = [(trunk, np.linspace(width, 0.35, len(trunk)))]
    for _ in range(int(rng.integers(0, 3))):
        fork = int(rng.integers(len(trunk) // 4, max(len(trunk) // 4 + 1, 3 * len(trunk) // 4)))
        run = trunk[min(fork + 1, len(trunk) - 1)] - trunk[max(fork - 1, 0)]
        side = math.atan2(run[1], run[0]) + rng.choice((-1, 1)) * rng.uniform(0.35, 0.9)
        branch = _walk(rng, trunk[fork], side, length * rng.uniform(0.15, 0.4), wander=0.15, kink=0.5)
        lines.append((branch, np.linspace(0.7 * width, 0.3, len(branch))))
    line = _draw_lines(part, lines) * part.coverage
    lip = _shifted(line, part, rng.uniform(0.9, 1.3)) * (1 - line) * part.coverage
    depth = _between(0.28, 0.6, severity) * np.clip(1 + 0.2 * mottle(rng, part.size, 12), 0.5, 1.5)
    raised = np.float32(_between(0.05, 0.15, severity))
    return part.reflectance * (1 - depth * line + raised * lip), np.maximum(line, 0.6 * lip)


def _chip(rng: np.random.Generator, part: Part, severity: float) -> tuple[Float32Array, Float32Array]:
    """Material broken out of a corner or an edge: a conchoidal facet, and the holder where it went right through."""
    size, (half_u, half_v) = part.size, part.half_extent
    reach = _between(14, 32, severity) * rng.uniform(0.85, 1.2)
    at_corner = rng.random() < 0.7
    corner = np.array([half_u, half_v]) * rng.choice((-1, 1), 2)
    if not at_corner:
        edge = int(rng.integers(2))
        corner[edge] *= rng.uniform(-0.8, 0.8)
    stretch = np.array([rng.uniform(0.75, 1.35), rng.uniform(0.75, 1.35)])
    if not at_corner:
        stretch[edge] *= 1.5
    region = _fill(part, corner + _ring(rng, reach * (1.0 if at_corner else 0.8), 0.20) * stretch)
    inward = cv2.distanceTransform((region > 0.5).astype(np.uint8), cv2.DIST_L2, 3) / np.float32(part.scale)

    tilt = rng.normal(0, 0.07)
    ripple = np.sin(inward * np.float32(2 * math.pi / rng.uniform(3.5, 6)) + mottle(rng, size, 12))
    facet = _soft(part.reflectance, part, 3) * np.float32(_between(0.8, 0.56, severity) + tilt)
    facet = facet + np.float32(0.022) * ripple + np.float32(0.025) * mottle(rng, size, 3.5)
    through = np.clip((inward - np.float32(rng.uniform(0.45, 0.9) * reach)) / 1.5 + 0.5 * mottle(rng, size, 5), 0, 1)
    fresh = np.exp(-np.square((inward - 1.0) / 0.9)) * np.clip(0.6 + 0.6 * mottle(rng, size, 8), 0, 1.6)
    facet += np.float32(_between(0.05, 0.11, severity)) * fresh
    broken = facet + (part.background - facet) * through
    amount = region * part.coverage
    return part.reflectance + (broken - part.reflectance) * amount, amount


def _pit(rng: np.random.Generator, part: Part, severity: float) -> tuple[Float32Array, Float32Array]:
    """One to three small holes, dark on the lamp's side, with a rim that catches the light."""
    hole = np.zeros_like(part.reflectance)
    place = _inside(rng, part, 0.84)
    for number in range(1 + int(rng.integers(0, 3) * (rng.random() < 0.35))):
        radius = _between(2.4, 5.0, severity) * rng.uniform(0.85, 1.2) * (0.65 if number else 1.0)
        middle = place + (rng.normal(0, 7, 2) if number else np.zeros(2))
        outline = _ring(rng, radius, 0.22) * np.array([1.0, rng.uniform(0.65, 1.0)])
        hole = np.maximum(hole, _fill(part, middle + outline))
    hole *= part.coverage
    wide = _soft(np.asarray(cv2.dilate(hole, np.ones((3, 3), np.uint8)), np.float32), part, 0.7)
    rim = _shifted(wide, part, 1.0) * (1 - hole) * part.coverage
    depth = np.float32(_between(0.24, 0.5, severity)) * (1 + 0.25 * (_shifted(hole, part, -1.2) - 1))
    raised = np.float32(_between(0.05, 0.16, severity))
    return part.reflectance * (1 - depth * hole + raised * rim), np.maximum(hole, 0.6 * rim)


def _contamination(rng: np.random.Generator, part: Part, severity: float) -> tuple[Float32Array, Float32Array]:
    """A dried residue, a fibre, or a few specks of dust lying on the face."""
    kind = rng.choice(("residue", "fibre", "dust"), p=(0.5, 0.25, 0.25))
    sign = rng.choice((-1, 1))
    if kind == "residue":
        radius = _between(9, 20, severity) * rng.uniform(0.8, 1.2)
        outline = _ring(rng, radius, 0.26) * np.array([rng.uniform(0.7, 1.3), 1.0])
        film = _soft(_fill(part, _inside(rng, part, 0.8) + outline), part, rng.uniform(0.8, 2.0)) * part.coverage
        contrast = sign * _between(0.045, 0.1, severity)
        ring = 4 * film * (1 - film) * np.float32(rng.uniform(0.1, 0.9))
        uneven = np.clip(1 + 0.25 * mottle(rng, part.size, 9), 0.4, 1.6)
        veiled = _soft(part.reflectance, part, 2.5) - part.reflectance
        tone = np.float32(contrast) * (film * uneven + ring) + np.float32(0.4) * veiled * film
        return part.reflectance + tone, film
    if kind == "fibre":
        path = _walk(
            rng, _inside(rng, part, 0.75), rng.uniform(0, 2 * math.pi), _between(36, 90, severity), wander=0.14, kink=0
        )
        thread = _draw_lines(part, [(path, np.full(len(path), rng.uniform(1.8, 2.8)))])
        lying = _soft(thread, part, 0.45) * part.coverage
        shadow = _shifted(lying, part, 1.8) * (1 - lying) * part.coverage
        tone = np.float32(sign * _between(0.08, 0.18, severity)) * lying - np.float32(0.02) * shadow
        return part.reflectance + tone, np.maximum(lying, 0.4 * shadow)
    specks = np.zeros_like(part.reflectance)
    middle = _inside(rng, part, 0.78)
    for _ in range(int(rng.integers(3, 8))):
        radius = _between(1.8, 3.4, severity) * rng.uniform(0.6, 1.3)
        specks = np.maximum(specks, _fill(part, middle + rng.normal(0, 8, 2) + _ring(rng, radius, 0.4)))
    specks = _soft(specks, part, 0.5) * part.coverage
    tone = np.float32(sign * _between(0.1, 0.22, severity)) * specks
    return part.reflectance + tone, specks


def _scratch(rng: np.random.Generator, part: Part, severity: float) -> tuple[Float32Array, Float32Array]:
    """A shallow groove across the polish lines: one flank bright, one dark, the load on it uneven."""
    heading = part.polish_angle - part.angle + rng.choice((-1, 1)) * rng.uniform(0.45, math.pi / 2)
    length = _between(56, 150, severity) * rng.uniform(0.8, 1.2)
    middle = _inside(rng, part, 0.55)
    along = np.linspace(-length / 2, length / 2, 40)
    bow = rng.normal(0, 0.03) * length * (1 - np.square(2 * along / length))
    direction = np.array([math.cos(heading), math.sin(heading)])
    path = middle + along[:, None] * direction + bow[:, None] * np.array([-direction[1], direction[0]])
    taper = np.clip(1.3 * (1 - np.abs(2 * along / length) ** 4), 0.35, 1)
    lines = [(path, _between(1.1, 1.8, severity) * taper)]
    if rng.random() < 0.3:
        beside = path[8:30] + rng.uniform(2.2, 4.0) * np.array([-direction[1], direction[0]])
        lines.append((beside, np.full(len(beside), 0.7)))
    groove = _draw_lines(part, lines) * part.coverage
    flank = _shifted(groove, part, 0.9) * (1 - groove) * part.coverage
    load = np.clip(1 + 0.35 * mottle(rng, part.size, 16), 0.35, 1.6)
    sign = rng.choice((-1, 1), p=(0.3, 0.7))
    tone = np.float32(sign * _between(0.12, 0.27, severity)) * load * (groove - np.float32(0.35) * flank)
    return part.reflectance * (1 + tone), np.maximum(groove, 0.4 * flank)


_MAKERS: Final[dict[str, Callable[[np.random.Generator, Part, float], tuple[Float32Array, Float32Array]]]] = {
    "crack": _crack,
    "chip": _chip,
    "pit": _pit,
    "contamination": _contamination,
    "scratch": _scratch,
}

DEFECTS: Final = tuple(_MAKERS)
"""Names of the defects, which are also the folder names of a written set."""


def _between(subtle: float, plain: float, severity: float) -> float:
    return subtle + (plain - subtle) * severity


def _inside(rng: np.random.Generator, part: Part, share: float) -> Points:
    """A point `[2]` of the part, within `share` of its half extent."""
    place: Points = np.asarray(part.half_extent) * rng.uniform(-share, share, 2)
    return place


def _on_edge(rng: np.random.Generator, part: Part) -> tuple[Points, float]:
    """A point on an edge of the part and the heading straight inwards."""
    axis, sign = int(rng.integers(2)), float(rng.choice((-1, 1)))
    place = np.asarray(part.half_extent) * rng.uniform(-0.8, 0.8, 2)
    place[axis] = sign * part.half_extent[axis]
    return place, (0.0, math.pi / 2)[axis] + (math.pi if sign > 0 else 0.0)


def _ring(rng: np.random.Generator, radius: float, unrest: float) -> Points:
    """A closed outline `[40, 2]` about the origin, a circle that waves by about `unrest` of its radius."""
    turn = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    order = np.arange(2, 8)[:, None]
    waves = rng.normal(0, unrest, order.shape) / order * np.cos(order * turn + rng.uniform(0, 2 * math.pi, order.shape))
    ring: Points = radius * (1 + waves.sum(0))[:, None] * np.stack((np.cos(turn), np.sin(turn)), 1)
    return ring


def _walk(rng: np.random.Generator, start: Points, heading: float, length: float, wander: float, kink: float) -> Points:
    """A path `[n, 2]` of 2-pixel steps: the heading drifts by `wander` rad a step and breaks by `kink` now and then."""
    steps = max(4, round(length / 2))
    turns = rng.normal(0, wander, steps) + (rng.random(steps) < 0.1) * rng.normal(0, kink, steps)
    headings = heading + np.cumsum(turns) - 0.4 * np.cumsum(np.cumsum(turns)) / steps
    path: Points = start + 2 * np.cumsum(np.stack((np.cos(headings), np.sin(headings)), 1), 0)
    return np.concatenate((start[None], path))


def _draw_lines(part: Part, lines: list[tuple[Points, NDArray[np.float64]]]) -> Float32Array:
    """Coverage `float32 [size, size]`, 0 to 1, of paths `[n, 2]` with a width `[n]`, both in reference pixels."""
    canvas = np.zeros((part.size * _SUPERSAMPLING,) * 2, np.uint8)
    zoom = part.scale * _SUPERSAMPLING
    for path, widths in lines:
        corners = _fixed_point(part, path)
        for start, end, width in zip(corners[:-1], corners[1:], widths[1:], strict=True):
            thickness = max(1, round(float(width) * zoom))
            cv2.line(canvas, start.tolist(), end.tolist(), 255, thickness, cv2.LINE_8, _SUBPIXEL_BITS)
    return _shrink(canvas, part)


def _fill(part: Part, outline: Points) -> Float32Array:
    """Coverage `float32 [size, size]`, 0 to 1, of the area within an outline `[n, 2]`."""
    canvas = np.zeros((part.size * _SUPERSAMPLING,) * 2, np.uint8)
    cv2.fillPoly(canvas, [_fixed_point(part, outline)], 255, cv2.LINE_8, _SUBPIXEL_BITS)
    return _shrink(canvas, part)


def _fixed_point(part: Part, points: Points) -> NDArray[np.int32]:
    zoom = part.scale * _SUPERSAMPLING
    return np.rint((part.to_picture(points) * zoom - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)


def _shrink(canvas: UInt8Array, part: Part) -> Float32Array:
    small = cv2.resize(canvas, (part.size, part.size), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / np.float32(255)


def _shifted(layer: Float32Array, part: Part, by: float) -> Float32Array:
    """A layer moved away from the lamp by `by` reference pixels."""
    move = -by * part.scale
    matrix = np.array([[1, 0, move * math.cos(part.light_angle)], [0, 1, move * math.sin(part.light_angle)]])
    return np.asarray(cv2.warpAffine(layer, matrix, (part.size, part.size)), np.float32)


def _soft(layer: Float32Array, part: Part, sigma: float) -> Float32Array:
    return np.asarray(cv2.GaussianBlur(layer, (0, 0), sigma * part.scale), np.float32)
