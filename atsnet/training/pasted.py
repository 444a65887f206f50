"""What the evidence head learns from: training frames with anomalies pasted on them."""

import numpy as np
import torch
import torch.nn.functional as F
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


class PastedAnomalies:
    """`training.synthetic_images` frames with an anomaly each, their features and where the anomalies are."""

    def __init__(
        self, network: AtsNet, config: Config, frames: UInt8Array, device: torch.device, report: Reporter = silent
    ) -> None:
        """Frames are normal ones, `uint8 [N, H, W, C]`; the network's memory is filled."""
        self.network, self.config, self.device = network, config, device
        rng = np.random.default_rng((config.training.seed, 4))
        count = config.training.synthetic_images
        orders = [rng.permutation(len(frames)) for _ in range(-(-count // len(frames)))]
        base = augment(frames[np.concatenate(orders)[:count]], config.augment, rng)
        synthetic = paste_anomalies(base, rng, sources=frames)
        masks = torch.from_numpy(synthetic.masks).unsqueeze(1).float()
        self._anomalous = (F.avg_pool2d(masks, MAP_STRIDE) > _ANOMALOUS_SHARE).squeeze(1)
        self._features = FrozenFeatures(network, config, synthetic.pixels, device, report, augmented=False)
        self._features.look_up(report)

    def loss(self, step: int, normal: FeatureBatch, *, half: bool) -> Tensor:
        """Loss of the evidence head on pasted frames, chosen by the step, and some of a batch of normal ones (scalar).

        Args:
            step: Of stage 2; the same step gives the same choice.
            normal: Normal frames, at least one.
            half: Compute the head in bfloat16.
        """
        size = self.config.training.batch_size
        pasted = max(1, round(_PASTED_SHARE * size))
        rng = np.random.default_rng((self.config.training.seed, 4, step))
        chosen = rng.integers(len(self._anomalous), size=pasted)
        batch = _join(normal, max(1, size - pasted), self._features.batch(chosen, rng))
        untouched = torch.zeros(len(batch.inspect) - pasted, *batch.inspect.shape[1:])
        anomalous = torch.cat([untouched, self._anomalous[torch.from_numpy(chosen)].float()]).to(self.device)
        with torch.no_grad():
            features = self.network.standardise(batch.raw)
            recollection = self.network.memory(batch.raw, batch.nearest) if self.network.memory else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits = self.network.judge(features, recollection)
        return evidence_loss(logits, anomalous, batch.inspect)


def _join(normal: FeatureBatch, count: int, pasted: FeatureBatch) -> FeatureBatch:
    """The first `count` frames of one batch, and all of the other."""
    nearest = None
    if normal.nearest is not None and pasted.nearest is not None:
        nearest = torch.cat([normal.nearest[:count], pasted.nearest])
    return FeatureBatch(
        [torch.cat([a[:count], b]) for a, b in zip(normal.raw, pasted.raw, strict=True)],
        torch.cat([normal.inspect[:count], pasted.inspect]),
        nearest,
    )
