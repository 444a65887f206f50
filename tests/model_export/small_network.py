"""A small network with random weights and the statistics of real frames."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import torch

from atsnet.config import Config
from atsnet.data.layout import Sample
from atsnet.imaging import InputGeometry, read_image, to_frame
from atsnet.network.atsnet import AtsNet

CREATED = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

CONFIG = Config.model_validate(
    {
        "input": {"height": 64, "width": 128, "color": "rgb"},
        "network": {
            "student_width": 32,
            "heads": 4,
            "window": 4,
            "grid": 2,
            "coupling_hidden": [16, 16, 16],
            "memory_size": 64,
            "evidence_width": 8,
            "score_fraction": 0.02,
        },
    }
)


def read_pixels(samples: Sequence[Sample], geometry: InputGeometry) -> np.ndarray:
    return np.stack([to_frame(read_image(sample.path), geometry).pixels for sample in samples])


@torch.no_grad()
def sane_network(config: Config, pixels: np.ndarray, seed: int = 0) -> AtsNet:
    """Random weights, but statistics and scales of real frames, and no constant that happens to be 0 or 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AtsNet(config.network, config.input)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if type(module).__name__ == "ChannelNorm":
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        for coupling in network.couplings:
            coupling.subnet[-1].weight.normal_(0, 0.1)
            coupling.subnet[-1].bias.normal_(0, 0.1)
    images, _ = network.unpack(torch.from_numpy(pixels))
    raw = network.backbone(images)
    network.update_norms(raw)
    recollection = None
    if network.memory:
        network.memory.fit(network.memory.describe(raw).permute(0, 2, 3, 1).flatten(0, 2), seed)
        recollection = network.memory(raw)
    features = network.standardise(raw)
    residuals = [t - s for t, s in zip(network.latents(features), network.predict(features, recollection), strict=True)]
    network.anomaly_map.fit_channels([residual.var(dim=(0, 2, 3)) for residual in residuals])
    rings = torch.arange(network.anomaly_map.rings)
    for index, source in enumerate(network.evidence(raw)):
        if source is not None:
            lower, upper = (source.quantile(q) for q in (0.1, 0.95))
            network.anomaly_map.fit_source(index, (lower - 0.02 * rings).tolist(), (upper + 0.03 * rings).tolist())
    return network.eval()
