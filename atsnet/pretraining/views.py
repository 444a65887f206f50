"""Two views of an unlabelled image: what a line may change (crop, lighting, focus, noise) without changing the part."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from atsnet.imaging import UInt8Array, read_image
from atsnet.pretraining.scenes import render_scene


class SceneViews(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of views, `uint8 [3, S, S]` each, of procedural scenes."""

    def __init__(self, bank: UInt8Array, length: int, size: int, seed: int) -> None:
        self.bank, self.length, self.size, self.seed = bank, length, size, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, 2, index))
        image = render_scene(self.bank, self.size * 3 // 2, rng).image
        return view(image, self.size, rng), view(image, self.size, rng)


class FolderViews(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of views of a folder's images, drawn with replacement; the images are kept in memory."""

    def __init__(self, paths: Sequence[Path], length: int, size: int, seed: int) -> None:
        self.length, self.size, self.seed = length, size, seed
        self.images = [_as_rgb(read_image(path), size) for path in paths]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, 3, index))
        image = self.images[rng.integers(len(self.images))]
        return view(image, self.size, rng), view(image, self.size, rng)


def view(image: UInt8Array, size: int, rng: np.random.Generator) -> Tensor:
    """One random view, `uint8 [3, size, size]`, of an RGB image `uint8 [H, W, 3]`."""
    height, width = image.shape[:2]
    side = int(min(height, width) * rng.uniform(0.5, 1.0))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:
        crop = crop[::-1]
    pixels = crop.astype(np.float32)
    if rng.random() < 0.4:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.6)), np.float32)
    mean = pixels.mean()
    pixels = (pixels - mean) * rng.uniform(0.6, 1.4) + mean + rng.uniform(-40, 40)
    pixels = pixels + rng.normal(0, rng.uniform(0, 8), (size, size, 1))
    return torch.from_numpy(np.ascontiguousarray(np.clip(pixels, 0, 255).astype(np.uint8).transpose(2, 0, 1)))


def _as_rgb(image: UInt8Array, size: int) -> UInt8Array:
    """RGB copy whose shorter side has at least `size` pixels and at most twice that."""
    rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
    shorter = min(rgb.shape[:2])
    scale = float(np.clip(shorter, size, 2 * size)) / shorter
    if scale != 1:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=interpolation)
    return np.asarray(rgb, np.uint8)
