"""Frames of 64x64 pixels with padding, and a trunk that sees no further than each position's own pixels."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import SCALE_CHANNELS, SCALE_STRIDES, ResNet18Trunk

GEOMETRY = InputGeometry(height=64, width=64, color="mono")
CPU = torch.device("cpu")


def make_frames(count: int, *, seed: int = 0) -> UInt8Array:
    """Stripes of random phase and some noise; the first and the last 16 columns are padding."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((count, 64, 64, 2), np.uint8)
    for frame in frames:
        stripes = 128 + 50 * np.sin(np.arange(64) / 4 + rng.uniform(0, 6)) + rng.normal(0, 5, (64, 64))
        frame[..., 0] = stripes.clip(0, 255)
        frame[:, 16:48, 1] = 255
    return frames


def with_defect(frames: UInt8Array) -> UInt8Array:
    """The same frames with a dark and bright checkerboard of 16x16 pixels at row 24, column 24."""
    marked = frames.copy()
    marked[:, 24:40, 24:40, 0] = 255 * (np.indices((16, 16)).sum(0) // 4 % 2)
    return marked


def with_other_padding(frames: UInt8Array) -> UInt8Array:
    """The same frames with noise where nothing is inspected."""
    changed = frames.copy()
    padding = frames[..., 1] == 0
    changed[padding, 0] = np.random.default_rng(5).integers(0, 256, int(padding.sum()))
    return changed


def make_trunk(seed: int = 0) -> ResNet18Trunk:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet18Trunk().eval()


class LocalTrunk(ResNet18Trunk):
    """Random linear features of each position's own pixels: what the padding holds cannot reach the part by itself."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__()
            self.banks = [
                torch.randn(channels, stride * stride) / stride
                for channels, stride in zip(SCALE_CHANNELS, SCALE_STRIDES, strict=True)
            ]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = []
        for bank, stride in zip(self.banks, SCALE_STRIDES, strict=True):
            cells = F.unfold(images[:, :1] - 0.5, stride, stride=stride)
            height, width = images.shape[2] // stride, images.shape[3] // stride
            features.append((bank @ cells).view(len(images), -1, height, width))
        return features[0], features[1], features[2]
