"""MKD: multiresolution knowledge distillation.

M. Salehi, N. Sadjadi, S. Baselizadeh, M. H. Rohban, H. R. Rabiee: Multiresolution Knowledge Distillation for Anomaly
Detection, CVPR 2021.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.baselines import maps
from atsnet.baselines.detector import DetectorSize, NotFittedError
from atsnet.baselines.distillation import distil
from atsnet.baselines.features import FrameTrunk, inspected
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import SCALE_CHANNELS, SCALE_STRIDES, ResNet18Trunk
from atsnet.progress import Reporter, silent

VALUE_WEIGHT = 0.5
"""Of the distance by value beside that by direction (lambda; the authors' setting for MVTec AD)."""


class Cloner(nn.Module):
    """The trunk's layout with thin layers: only the last one of each scale is as wide as the trunk's.

    The paper thins a VGG-16 in the same way, to 16 channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        channels = (width, *SCALE_CHANNELS)
        self.scales = nn.ModuleList(
            nn.Sequential(
                *_layer(channels[index], width, 1 if index == 0 else 2),
                *_layer(width, width),
                *_layer(width, width),
                nn.Conv2d(width, channels[index + 1], 3, 1, 1, bias=False),
                nn.ReLU(),
            )
            for index in range(len(SCALE_CHANNELS))
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`float [N, 3, H, W]` in 0..1 to the shapes of the trunk's features."""
        x, features = self.stem(2 * images - 1), []
        for scale in self.scales:
            x = scale(x)
            features.append(x)
        return tuple(features)


class Mkd:
    """A small cloner that imitates the trunk's activations, by value and by direction, at three scales.

    An image's score is the cloner's loss on it, as in the paper. The paper localises by the gradient of that loss on
    the input; here the map is the loss at each position, summed over the scales and smoothed.

    Notes:
        The authors train 600 epochs on MVTec AD and report the best of the epochs that they test. Here the last step
        counts, and the default is what two CPU cores do in seven minutes on 650 images.
    """

    def __init__(
        self,
        trunk: ResNet18Trunk,
        geometry: InputGeometry,
        seed: int = 0,
        device: torch.device | None = None,
        *,
        width: int = 16,
        steps: int = 600,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
    ) -> None:
        """Make a detector without a cloner.

        Args:
            trunk: The teacher.
            geometry: Of the frames.
            seed: Of the cloner's first weights and of the frames' order.
            device: The CPU by default.
            width: Channels of the cloner's thin layers.
            steps: Batches to train on.
            batch_size: Frames a batch (the paper: 64).
            learning_rate: Of Adam, constant.
        """
        self.trunk = FrameTrunk(trunk, geometry, device or torch.device("cpu"))
        self.seed, self.width, self.steps = seed, width, steps
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.losses: list[float] = []
        self._cloner: Cloner | None = None

    @property
    def cloner(self) -> Cloner:
        """The trained cloner.

        Raises:
            NotFittedError: `fit` has not been called.
        """
        if self._cloner is None:
            raise NotFittedError("MKD has no cloner yet; call fit first")
        return self._cloner

    def fit(self, train: UInt8Array, holdout: UInt8Array, report: Reporter = silent) -> None:  # noqa: ARG002
        """See `Detector`; the holdout is not needed.

        Raises:
            ValueError: There are no frames.
            DistillationError: Training diverged.
        """
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            cloner = Cloner(self.width).to(self.trunk.device)
        self.losses = distil(
            self.trunk,
            cloner,
            train,
            lambda teacher, student, mask: image_losses(teacher, student, mask).mean(),
            torch.optim.Adam(cloner.parameters(), self.learning_rate),
            steps=self.steps,
            batch_size=self.batch_size,
            seed=self.seed,
            report=report,
        )
        self._cloner = cloner

    @torch.inference_mode()
    def score(self, pixels: UInt8Array, report: Reporter = silent) -> RawScores:
        """See `Detector`; an image's score is its loss, not the maximum of its map."""
        cloner = self.cloner
        scores, anomaly_maps = [torch.empty(0)], [torch.empty(0, *(side // 4 for side in pixels.shape[1:3]))]
        for batch in self.trunk.batches(pixels, "scoring", report):
            student = cloner(batch.images)
            scores.append(image_losses(batch.scales, student, batch.mask).cpu())
            anomaly_maps.append(loss_map(batch.scales, student, batch.mask).cpu())
        return RawScores(torch.cat(scores).numpy(), torch.cat(anomaly_maps).numpy())

    def size(self) -> DetectorSize:
        """See `Detector`."""
        learned = sum(parameter.numel() for parameter in self.cloner.parameters())
        macs = self.trunk.macs(self.trunk.trunk) + self.trunk.macs(self.cloner)
        return DetectorSize(self.trunk.parameters, learned, macs)


def image_losses(teacher: Sequence[Tensor], student: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Loss of each image over its inspected positions, `[N]` (equations 1 to 3).

    Of each scale: one minus the cosine between all of its activations as one vector, and `VALUE_WEIGHT` times their
    mean squared difference.
    """
    losses = torch.zeros(len(mask), device=mask.device)
    for t, s, stride in zip(teacher, student, SCALE_STRIDES, strict=True):
        weight = inspected(mask, stride).unsqueeze(1)
        seen, answer = (t * weight).flatten(1), (s * weight).flatten(1)
        count = t.shape[1] * weight.flatten(1).sum(1).clamp(min=1)
        by_value = (seen - answer).square().sum(1) / count
        by_direction = (1 - F.cosine_similarity(seen, answer, dim=1)) * weight.flatten(1).any(1)
        losses = losses + by_direction + VALUE_WEIGHT * by_value
    return losses


def loss_map(teacher: Sequence[Tensor], student: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The same loss at each position, summed over the scales and smoothed, `[N, H/4, W/4]`; 0 where not inspected."""
    at_map = inspected(mask, maps.MAP_STRIDE)
    total = torch.zeros(at_map.shape, device=mask.device)
    for t, s, stride in zip(teacher, student, SCALE_STRIDES, strict=True):
        loss = 1 - F.cosine_similarity(t, s, dim=1) + VALUE_WEIGHT * (t - s).square().mean(1)
        total = total + maps.anomaly_map(loss, inspected(mask, stride), at_map)
    return total


def _layer(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
