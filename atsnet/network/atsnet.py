"""ATS-Net: backbone, normalisation, teacher, student and anomaly map, from frames to scores.

The module's input is the frame of `atsnet.imaging`, so that what is trained is what is exported and served.
"""

from collections.abc import Sequence
from typing import Self, cast

import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.config import NetworkConfig
from atsnet.imaging import InputGeometry
from atsnet.network.anomaly_map import AnomalyMap
from atsnet.network.backbone import SCALE_CHANNELS, ResNet18Trunk
from atsnet.network.coupling import AffineCoupling
from atsnet.network.ema_norm import EmaNorm
from atsnet.network.evidence import EvidenceHead
from atsnet.network.memory import PrototypeMemory, Recollection
from atsnet.network.student import Student

MAP_STRIDE = 4
"""Frame pixels a side of one pixel of the anomaly map."""


class AtsNet(nn.Module):
    """The asymmetric teacher-student network (Tang, Tu, Zhou, Wong 2025; our reading of its abstract)."""

    def __init__(self, config: NetworkConfig, geometry: InputGeometry) -> None:
        super().__init__()
        self.config, self.geometry = config, geometry
        self.backbone = ResNet18Trunk().requires_grad_(False)
        self.norms = nn.ModuleList(EmaNorm(channels, config.ema_momentum) for channels in SCALE_CHANNELS)
        self.couplings = nn.ModuleList(
            AffineCoupling(channels, hidden, config.coupling_clamp, config.coupling_kernel)
            for channels, hidden in zip(SCALE_CHANNELS, config.coupling_hidden, strict=True)
        )
        self.memory = PrototypeMemory(config.memory_size, config.memory_width) if config.memory_size else None
        self.student = Student(
            config.student_width,
            config.heads,
            config.window,
            config.grid,
            config.dropout,
            config.noise,
            prototype_width=config.memory_width if config.student_sees == "prototypes" else None,
            attention=config.context,
        )
        self.evidence_head = (
            EvidenceHead(config.evidence_width, config.memory_width if config.memory_size else None, config.dropout)
            if config.evidence_width
            else None
        )
        self.anomaly_map = AnomalyMap(
            config.smoothing_sigma, config.score_fraction, config.source_weights, config.border_rings
        )
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Student and evidence head know two modes; the backbone stays frozen, the trainer updates the norms."""
        super().train(mode)
        self.backbone.eval()
        self.norms.eval()
        return self

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Score frames.

        Args:
            frames: `uint8 [N, H, W, C]`, the image's channels and the inspect mask (see `atsnet.imaging`).

        Returns:
            Raw scores `float32 [N]` and anomaly maps `float32 [N, H/4, W/4]`, not calibrated.
        """
        images, inspect = self.unpack(frames)
        score, anomaly_map = self.anomaly_map(self.evidence(self.backbone(images)), inspect)
        return score, anomaly_map

    def evidence(self, raw: Sequence[Tensor]) -> list[Tensor | None]:
        """Evidence of each of `anomaly_map.SOURCES` from the backbone's features, `[N, h, w]`; None for none."""
        features = self.standardise(raw)
        recollection = self.memory(raw) if self.memory else None
        residuals = self.anomaly_map.residual_distances(self.latents(features), self.predict(features, recollection))
        return [
            *(self.anomaly_map.logarithm(residual) for residual in residuals),
            self.anomaly_map.logarithm(recollection.distance) if recollection else None,
            self.judge(features, recollection) if self.evidence_head else None,
        ]

    def predict(self, features: Sequence[Tensor], recollection: Recollection | None) -> tuple[Tensor, Tensor, Tensor]:
        """The student's word on a part, from the view of it that the configuration allows; shapes of the features."""
        seen: Sequence[Tensor] | Tensor = features
        if recollection is not None and self.config.student_sees == "prototypes":
            seen = recollection.prototypes
        predicted: tuple[Tensor, Tensor, Tensor] = self.student(seen)
        return predicted

    def judge(self, features: Sequence[Tensor], recollection: Recollection | None) -> Tensor:
        """Log-odds of the evidence head, `float32 [N, H/4, W/4]`."""
        assert self.evidence_head is not None
        logits: Tensor = self.evidence_head(features, recollection.missed if recollection else None)
        return logits.float()

    def unpack(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Split frames into images, `float [N, 3, H, W]` in 0..1, and the inspect mask at map size, `[N, H/4, W/4]`.

        A map position is inspected when at least half of its pixels are.
        """
        # Transposing the bytes before any arithmetic is several times cheaper than arithmetic on NHWC floats.
        planes = frames.permute(0, 3, 1, 2)
        images = planes[:, :-1].float() / 255
        if self.geometry.color == "mono":
            images = images.expand(-1, 3, -1, -1)
        inspect = (F.avg_pool2d(planes[:, -1:].float(), MAP_STRIDE) >= 127.5).float()
        return images, inspect.squeeze(1)

    def update_norms(self, features: Sequence[Tensor]) -> None:
        """Move the statistics of every scale towards those of a normal batch."""
        for norm, x in zip(self.norms, features, strict=True):
            cast(EmaNorm, norm).update(x)

    def standardise(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Normalise the backbone's features by the moving averages, unless the configuration leaves them alone."""
        if not self.config.ema_norm:
            return [x.float() for x in features]
        return [norm(x) for norm, x in zip(self.norms, features, strict=True)]

    def latents(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's word on standardised features: each scale through its coupling, shapes kept."""
        if not self.config.coupling:
            return list(features)
        return [coupling(x)[0] for coupling, x in zip(self.couplings, features, strict=True)]
