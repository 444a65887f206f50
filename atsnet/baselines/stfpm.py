"""STFPM: student-teacher feature pyramid matching.

G. Wang, S. Han, E. Ding, D. Huang: Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atsnet.baselines import maps
from atsnet.baselines.detector import DetectorSize, NotFittedError
from atsnet.baselines.distillation import distil
from atsnet.baselines.features import FrameTrunk, inspected
from atsnet.evaluation.scoring import RawScores
from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import SCALE_STRIDES, ResNet18Trunk
from atsnet.progress import Reporter, silent


class Stfpm:
    """A student of the trunk's own architecture, trained from scratch on unit feature vectors of three scales.

    Notes:
        The paper trains 100 epochs in batches of 32 (2,000 steps for 640 images) and keeps the epoch with the lowest
        loss on a fifth of the normal images. Here the last step counts, and the default is what two CPU cores do in
        eight minutes; with a GPU at hand, give the paper's number.
    """

    def __init__(
        self,
        trunk: ResNet18Trunk,
        geometry: InputGeometry,
        seed: int = 0,
        device: torch.device | None = None,
        *,
        steps: int = 300,
        batch_size: int = 32,
        learning_rate: float = 0.4,
    ) -> None:
        """Make a detector without a student.

        Args:
            trunk: The teacher.
            geometry: Of the frames.
            seed: Of the student's first weights and of the frames' order.
            device: The CPU by default.
            steps: Batches to train on.
            batch_size: Frames a batch.
            learning_rate: Of stochastic gradient descent with momentum 0.9 and weight decay 1e-4, constant.
        """
        self.trunk = FrameTrunk(trunk, geometry, device or torch.device("cpu"))
        self.seed, self.steps, self.batch_size, self.learning_rate = seed, steps, batch_size, learning_rate
        self.losses: list[float] = []
        self._student: ResNet18Trunk | None = None

    @property
    def student(self) -> ResNet18Trunk:
        """The trained student.

        Raises:
            NotFittedError: `fit` has not been called.
        """
        if self._student is None:
            raise NotFittedError("STFPM has no student yet; call fit first")
        return self._student

    def fit(self, train: UInt8Array, holdout: UInt8Array, report: Reporter = silent) -> None:  # noqa: ARG002
        """See `Detector`; the holdout is not needed.

        Raises:
            DistillationError: Training diverged.
        """
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            student = ResNet18Trunk().to(self.trunk.device)
        optimizer = torch.optim.SGD(student.parameters(), self.learning_rate, momentum=0.9, weight_decay=1e-4)
        self.losses = distil(
            self.trunk,
            student,
            train,
            pyramid_loss,
            optimizer,
            steps=self.steps,
            batch_size=self.batch_size,
            seed=self.seed,
            report=report,
        )
        self._student = student

    @torch.inference_mode()
    def score(self, pixels: UInt8Array, report: Reporter = silent) -> RawScores:
        """See `Detector`; an image's score is the maximum of its map."""
        student = self.student
        anomaly_maps = [torch.empty(0, *(side // maps.MAP_STRIDE for side in pixels.shape[1:3]))]
        anomaly_maps.extend(
            pyramid_map(batch.scales, student(batch.images), batch.mask).cpu()
            for batch in self.trunk.batches(pixels, "scoring", report)
        )
        merged = torch.cat(anomaly_maps)
        return RawScores(merged.amax((1, 2)).numpy(), merged.numpy())

    def size(self) -> DetectorSize:
        """See `Detector`."""
        student = self.student
        learned = sum(tensor.numel() for tensor in student.parameters())
        macs = self.trunk.macs(self.trunk.trunk) + self.trunk.macs(student)
        return DetectorSize(self.trunk.parameters, learned, macs)


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Half the squared distance of unit feature vectors at each position (equation 1), `[N, h, w]`."""
    return 0.5 * (F.normalize(teacher, dim=1) - F.normalize(student, dim=1)).square().sum(1)


def pyramid_loss(teacher: Sequence[Tensor], student: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Sum over the scales of the mean distance over inspected positions (equations 2 and 3)."""
    terms = []
    for t, s, stride in zip(teacher, student, SCALE_STRIDES, strict=True):
        weight = inspected(mask, stride)
        terms.append((distance(t, s) * weight).sum() / weight.sum().clamp(min=1))
    return torch.stack(terms).sum()


def pyramid_map(teacher: Sequence[Tensor], student: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Product of the scales' distances, each enlarged to 1/4 (equation 4), `[N, H/4, W/4]`; 0 where not inspected."""
    at_map = inspected(mask, maps.MAP_STRIDE)
    product = at_map.float()
    for t, s, stride in zip(teacher, student, SCALE_STRIDES, strict=True):
        enlarged = maps.resize(distance(t, s).unsqueeze(1), inspected(mask, stride), (at_map.shape[1], at_map.shape[2]))
        product = product * enlarged.squeeze(1)
    return product
