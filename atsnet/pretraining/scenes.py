"""Procedural scenes: patches of several textures with small marks on them, and a label for every pixel.

The labels are what the trunk learns from: which formula a region was drawn by, and where a line, crack, spot, ring or
blob lies on it. Brightness, contrast, tint, lighting, focus and noise are drawn at random, so that the trunk learns to
see structure and not the capture.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from atsnet.imaging import Float32Array, UInt8Array
from atsnet.network.backbone import SCALE_STRIDES
from atsnet.pretraining.formulas import TILE, texture_bank

Labels = NDArray[np.int64]

MARKS: Final = ("line", "curve", "crack", "spot", "ring", "blob", "wedge", "cross")
"""Kinds of small marks; each is a class of its own, after those of the textures."""


@dataclass(frozen=True, slots=True)
class Scene:
    """`image` is `uint8 [S, S, 3]` (RGB); `labels` is `int64 [S, S]`, `marks` likewise with -1 where there is none."""

    image: UInt8Array
    labels: Labels
    marks: Labels


class SceneDataset(Dataset[tuple[Tensor, list[Tensor]]]):
    """Endlessly different scenes, each fixed by the seed and its index.

    An item is the image, `uint8 [3, S, S]`, and its labels at 1/4, 1/8 and 1/16 of its size, `int64 [S/4, S/4]` ... .
    """

    def __init__(self, length: int, size: int, classes: int, seed: int, tiles: int = 2) -> None:
        self.length, self.size, self.classes, self.seed = length, size, classes, seed
        self.bank = texture_bank(classes, tiles, seed)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, list[Tensor]]:
        scene = render_scene(self.bank, self.size, np.random.default_rng((self.seed, 1, index)))
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        return image, [torch.from_numpy(labels_at(scene, stride, self.classes)) for stride in SCALE_STRIDES]


def labels_at(scene: Scene, stride: int, classes: int) -> Labels:
    """Labels of a scene's cells of `stride` pixels: the mark in the cell if any, else the texture at its middle.

    Returns:
        `int64 [S/stride, S/stride]`, 0..classes-1 for textures and from `classes` on for marks.
    """
    side = scene.labels.shape[0] // stride
    middle = scene.labels[stride // 2 :: stride, stride // 2 :: stride]
    mark = scene.marks.reshape(side, stride, side, stride).max(axis=(1, 3))
    labels: Labels = np.where(mark >= 0, classes + mark, middle).astype(np.int64)
    return labels


def render_scene(bank: UInt8Array, size: int, rng: np.random.Generator) -> Scene:
    """Compose one scene of `size` x `size` pixels from a texture bank."""
    regions = int(rng.integers(1, 4))
    owner = _partition(regions, size, rng)
    canvas = np.zeros((size, size), np.float32)
    labels = np.zeros((size, size), np.int64)
    chosen = rng.choice(bank.shape[0], regions, replace=False)
    for region, number in enumerate(chosen):
        inside = owner == region
        level, contrast = rng.uniform(60, 190), np.exp(rng.uniform(np.log(0.15), np.log(1.0)))
        patch = _patch(bank[number, rng.integers(bank.shape[1])], size, rng)
        canvas[inside] = (level + contrast * (patch - 128.0))[inside]
        labels[inside] = number
    marks = np.full((size, size), -1, np.int64)
    for _ in range(rng.integers(0, 7)):
        _draw_mark(canvas, marks, rng)
    return Scene(_capture(canvas, rng), labels, marks)


def _partition(regions: int, size: int, rng: np.random.Generator) -> Labels:
    """Split the picture into smooth random regions, `int64 [size, size]`."""
    fields = rng.standard_normal((regions, 6, 6)).astype(np.float32)
    large = [cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC) for field in fields]
    owner: Labels = np.argmax(np.stack(large), axis=0).astype(np.int64)
    return owner


def _patch(tile: UInt8Array, size: int, rng: np.random.Generator) -> Float32Array:
    """A window of a tile, turned and scaled a little."""
    angle, scale = rng.uniform(-12, 12), rng.uniform(0.85, 1.2)
    matrix = cv2.getRotationMatrix2D((TILE / 2, TILE / 2), angle, scale)
    matrix[:, 2] = matrix[:, 2] + rng.uniform(0, TILE, 2)
    warped = cv2.warpAffine(tile, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(warped, np.float32)


def _draw_mark(canvas: Float32Array, marks: Labels, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    kind = int(rng.integers(len(MARKS)))
    name = MARKS[kind]
    mask = np.zeros((size, size), np.uint8)
    x, y = rng.uniform(0.1, 0.9, 2) * size
    length, angle = rng.uniform(0.06, 0.5) * size, rng.uniform(0, 2 * np.pi)
    width = int(rng.integers(1, 4))
    if name in ("line", "curve", "crack"):
        steps = {"line": 2, "curve": 12, "crack": int(rng.integers(5, 10))}[name]
        turn = {"line": 0.0, "curve": rng.uniform(-0.25, 0.25), "crack": 0.0}[name]
        wobble = rng.uniform(0.4, 0.9) if name == "crack" else 0.0
        headings = angle + turn * np.arange(steps) + wobble * rng.standard_normal(steps)
        strides = np.stack([np.cos(headings), np.sin(headings)], 1) * length / steps
        points = np.cumsum(strides, axis=0) + np.array([x, y])
        cv2.polylines(mask, [points.round().astype(np.int32)], False, 255, width, cv2.LINE_AA)
    elif name == "spot":
        cv2.circle(mask, (round(x), round(y)), int(rng.integers(1, 5)), 255, -1, cv2.LINE_AA)
    elif name == "ring":
        cv2.circle(mask, (round(x), round(y)), int(rng.integers(4, 12)), 255, width, cv2.LINE_AA)
    elif name == "blob":
        field = cv2.resize(rng.standard_normal((5, 5)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        yy, xx = np.mgrid[0:size, 0:size]
        reach = rng.uniform(0.05, 0.12) * size
        mask = ((np.hypot(xx - x, yy - y) < reach * (1 + 0.5 * field)) * 255).astype(np.uint8)
    elif name == "wedge":
        corners = np.array([x, y]) + rng.uniform(-0.1, 0.1, (3, 2)) * size
        cv2.fillPoly(mask, [corners.round().astype(np.int32)], 255, cv2.LINE_AA)
    else:
        arm = rng.uniform(0.03, 0.08) * size
        for turn in (0, np.pi / 2):
            dx, dy = arm * np.cos(angle + turn), arm * np.sin(angle + turn)
            start, end = (round(x - dx), round(y - dy)), (round(x + dx), round(y + dy))
            cv2.line(mask, start, end, 255, width, cv2.LINE_AA)
    if not mask.any():
        return  # it missed the picture
    # As faint as can be told from the texture around it, or up to four times stronger.
    around = cv2.dilate(mask, np.ones((9, 9), np.uint8)) > 0
    strength = rng.choice([-1, 1]) * max(8.0, float(canvas[around].std()) * np.exp(rng.uniform(0, np.log(4))))
    canvas += strength * cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 1.5)).astype(np.float32) / 255
    marks[mask > 100] = kind


def _capture(canvas: Float32Array, rng: np.random.Generator) -> UInt8Array:
    """What a camera makes of it: lighting, focus, tint, noise; `uint8 [S, S, 3]`."""
    size = canvas.shape[0]
    if rng.random() < 0.4:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.6)), np.float32)
    slope = rng.uniform(-0.25, 0.25, 2)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    canvas = canvas * (1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :])
    gain, offset = np.ones(3), np.zeros(3)
    if rng.random() < 0.5:
        gain, offset = rng.uniform(0.7, 1.2, 3), rng.uniform(-25, 25, 3)
    noise = rng.normal(0, rng.uniform(0, 8), (size, size, 1))
    image: UInt8Array = np.clip(canvas[:, :, None] * gain + offset + noise, 0, 255).astype(np.uint8)
    return image
