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
    features = network.backbone(images)
    for norm, x in zip(network.norms, features, strict=True):
        norm.update(x)
    standard = network.standardise(features)
    latents = [coupling(x)[0] for coupling, x in zip(network.couplings, standard, strict=True)]
    predicted = network.student(standard)
    network.anomaly_map.fit_channels([(t - s).var(dim=(0, 2, 3)) for t, s in zip(latents, predicted, strict=True)])
    distances = network.anomaly_map.distances(latents, predicted)
    lower, upper = ([float(d.quantile(q)) for d in distances] for q in (0.1, 0.95))
    network.anomaly_map.fit_scales(lower, upper)
    return network.eval()
