"""What the evidence head learns from: training frames with anomalies pasted on them."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from atsnet.config import Config
from atsnet.data.augment import augment
from atsnet.data.synthetic import paste_anomalies
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import MAP_STRIDE, AtsNet
from atsnet.network.evidence import evidence_loss
from atsnet.progress import Reporter, silent
from atsnet.training.frozen_features import FeatureBatch, FrozenFeatures

_PASTED_SHARE = 0.75
"""Of a batch; the rest is as it was."""
_ANOMALOUS_SHARE = 0.25
"""Of a map position's pixels, from which on it counts as anomalous."""


def normal_count(batch_size: int) -> int:
    """Frames of a batch that have no anomaly on them, at least one."""
    return max(1, batch_size - round(_PASTED_SHARE * batch_size))


class PastedAnomalies:
    """`training.synthetic_images` frames with an anomaly each, their features and where the anomalies are."""

    def __init__(
        self,
        network: AtsNet,
        config: Config,
        frames: UInt8Array,
        device: torch.device,
        report: Reporter = silent,
        *,
        parts: NDArray[np.intp] | None = None,
    ) -> None:
        """Frames are normal ones, `uint8 [N, H, W, C]`, of these parts `[N]`; the network's memory is filled."""
        self.network, self.config, self.device = network, config, device
        rng = np.random.default_rng((config.training.seed, 4))
        count = config.training.synthetic_images
        orders = [rng.permutation(len(frames)) for _ in range(-(-count // len(frames)))]
        chosen = np.concatenate(orders)[:count]
        base = augment(frames[chosen], config.augment, rng)
        synthetic = paste_anomalies(base, rng, sources=frames)
        masks = torch.from_numpy(synthetic.masks).unsqueeze(1).float()
        self._anomalous = (F.avg_pool2d(masks, MAP_STRIDE) > _ANOMALOUS_SHARE).squeeze(1)
        own = chosen if parts is None else parts[chosen]
        self._features = FrozenFeatures(network, config, synthetic.pixels, device, report, parts=own, augmented=False)
        self._features.look_up(report)

    def loss(self, step: int, normal: FeatureBatch, *, half: bool) -> Tensor:
        """Loss of the evidence head on a batch of normal frames, and pasted ones chosen by the step (scalar).

        Args:
            step: Of stage 3; the same step gives the same choice.
            normal: `normal_count` frames of a batch.
            half: Compute the head in bfloat16.
        """
        size = self.config.training.batch_size
        pasted = max(1, size - normal_count(size))
        rng = np.random.default_rng((self.config.training.seed, 4, step))
        chosen = rng.integers(len(self._anomalous), size=pasted)
        batch = _join(normal, self._features.batch(chosen, rng))
        untouched = torch.zeros(len(batch.inspect) - pasted, *batch.inspect.shape[1:])
        anomalous = torch.cat([untouched, self._anomalous[torch.from_numpy(chosen)].float()]).to(self.device)
        with torch.no_grad():
            features = self.network.standardise(batch.raw)
            recollection = self.network.memory(batch.raw, batch.nearest) if self.network.memory else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits = self.network.judge(features, recollection)
        return evidence_loss(logits, anomalous, batch.inspect)


def _join(normal: FeatureBatch, pasted: FeatureBatch) -> FeatureBatch:
    nearest = None
    if normal.nearest is not None and pasted.nearest is not None:
        nearest = torch.cat([normal.nearest, pasted.nearest])
    return FeatureBatch(
        [torch.cat([a, b]) for a, b in zip(normal.raw, pasted.raw, strict=True)],
        torch.cat([normal.inspect, pasted.inspect]),
        nearest,
    )
