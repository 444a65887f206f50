"""Detectors that learn in no time, fail, die or never end; importable by the processes of a benchmark."""

import os
import time
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch

from atsnet.baselines.detector import DetectorSize
from atsnet.baselines.methods import MakeDetector
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import ResNet18Trunk
from atsnet.progress import Reporter, silent


class Brightness:
    """How far each pixel is from the mean of the good frames there, which is what its map is."""

    def __init__(
        self, trunk: ResNet18Trunk, geometry: InputGeometry, seed: int = 0, device: torch.device | None = None
    ) -> None:
        self.trunk, self.geometry, self.seed, self.device = trunk, geometry, seed, device
        self.mean = np.zeros(0)

    def fit(self, train: UInt8Array, holdout: UInt8Array, report: Reporter = silent) -> None:
        assert len(train)
        assert len(holdout)
        self.mean = train[..., 0].mean(axis=0)
        report("learning", 1, 1)

    def score(self, pixels: UInt8Array, report: Reporter = silent) -> RawScores:
        report("scoring", len(pixels), len(pixels))
        maps = np.abs(pixels[..., 0] - self.mean).astype(np.float32)[:, ::4, ::4]
        return RawScores(maps.mean(axis=(1, 2)) + np.float32(self.seed), maps)

    def size(self) -> DetectorSize:
        return DetectorSize(trunk=1_000_000, learned=self.mean.size, macs=None)


class Failing(Brightness):
    """Cannot learn."""

    def fit(self, *_: object) -> None:
        raise ValueError("nothing to learn here")


class Dying(Brightness):
    """Takes its process with it."""

    def fit(self, *_: object) -> None:
        os._exit(9)


class Endless(Brightness):
    """Learns until it is told to stop."""

    def fit(self, _train: UInt8Array, _holdout: UInt8Array, report: Reporter = silent) -> None:
        while True:
            report("learning for ever", 1, 2)
            time.sleep(0.01)


FAKES: Final[Mapping[str, MakeDetector]] = {
    "padim": Brightness,
    "mkd": Failing,
    "stfpm": Dying,
    "patchcore": Endless,
}
