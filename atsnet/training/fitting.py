"""What the anomaly map learns from held-out normal frames: channel weights, and the quantiles of every source."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from atsnet.imaging import UInt8Array
from atsnet.network.anomaly_map import SOURCES, border_depth, resize
from atsnet.network.atsnet import AtsNet
from atsnet.progress import Reporter, silent

LOWER_QUANTILE = 0.5
UPPER_QUANTILE = 0.995
MIN_POSITIONS = 200
"""A ring with fewer positions in all held-out frames borrows its neighbours'."""


@torch.inference_mode()
def fit_anomaly_map(network: AtsNet, frames: UInt8Array, batch_size: int, report: Reporter = silent) -> None:
    """Fit the network's `AnomalyMap` on held-out normal frames, `uint8 [N, H, W, C]`; the network is in eval mode.

    Padding is left out. Two passes: variances of the residuals first, then quantiles of the sources' evidence, ring by
    ring from the border inwards.
    """
    _fit_channels(network, frames, batch_size, report)
    rings = network.anomaly_map.rings
    values: list[list[list[Tensor]]] = [[[] for _ in range(rings)] for _ in SOURCES]
    for done, (raw, inspect) in enumerate(_features(network, frames, batch_size)):
        depth = border_depth(inspect, rings).sum(dim=1)
        for index, source in enumerate(network.evidence(raw)):
            if source is not None:
                resized = resize(source, (inspect.shape[1], inspect.shape[2]))
                for ring in range(rings):
                    values[index][ring].append(resized[depth == ring + 1].cpu())
        report("fitting quantiles", min(len(frames), (done + 1) * batch_size), len(frames))
    for index, of_ring in enumerate(values):
        if of_ring[0]:
            merged = [torch.cat(parts) for parts in of_ring]
            network.anomaly_map.fit_source(index, *_ring_quantiles(merged))


def _ring_quantiles(of_ring: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """The lower and upper value of each ring, half way between the ring's own and those of all positions.

    The ring's own alone would make the border as hard to accuse as it is variable, and parts do chip at their edges;
    those of all positions alone would let the border's normal variety decide. The spreads' geometric mean is taken.
    """
    everywhere = torch.cat(list(of_ring))
    low_all, high_all = _quantile(everywhere, LOWER_QUANTILE), _quantile(everywhere, UPPER_QUANTILE)
    lower, upper = [], []
    for ring in range(len(of_ring)):
        own = _enough(of_ring, ring)
        low, high = _quantile(own, LOWER_QUANTILE), _quantile(own, UPPER_QUANTILE)
        lower.append((low + low_all) / 2)
        upper.append(lower[-1] + math.sqrt(max(high - low, 0) * max(high_all - low_all, 0)))
    return lower, upper


def _fit_channels(network: AtsNet, frames: UInt8Array, batch_size: int, report: Reporter) -> None:
    sums, counts = [torch.zeros(()) for _ in network.norms], [0.0 for _ in network.norms]
    for done, (raw, inspect) in enumerate(_features(network, frames, batch_size)):
        features = network.standardise(raw)
        predicted = network.predict(features, network.memory(raw) if network.memory else None)
        for index, (t, s) in enumerate(zip(network.latents(features), predicted, strict=True)):
            stride = inspect.shape[1] // t.shape[2]
            weight = inspect[:, ::stride, ::stride].unsqueeze(1)
            sums[index] = sums[index] + ((t - s).square() * weight).sum(dim=(0, 2, 3)).double().cpu()
            counts[index] += float(weight.sum())
        report("fitting channel weights", min(len(frames), (done + 1) * batch_size), len(frames))
    network.anomaly_map.fit_channels([(total / count).float() for total, count in zip(sums, counts, strict=True)])


def _features(network: AtsNet, frames: UInt8Array, batch_size: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The backbone's features of each batch, and its inspect mask."""
    device = next(network.parameters()).device
    for start in range(0, len(frames), batch_size):
        images, inspect = network.unpack(torch.from_numpy(frames[start : start + batch_size]).to(device))
        yield list(network.backbone(images.contiguous(memory_format=torch.channels_last))), inspect


def _enough(of_ring: Sequence[Tensor], ring: int) -> Tensor:
    """The values of a ring, with as many of its neighbours' as it takes to be `MIN_POSITIONS`, or all there are."""
    reach = 0
    while True:
        pooled = torch.cat(list(of_ring[max(0, ring - reach) : ring + reach + 1]))
        if len(pooled) >= MIN_POSITIONS or reach == len(of_ring):
            return pooled
        reach += 1


def _quantile(values: Tensor, share: float) -> float:
    # torch.quantile refuses more than 2^24 values.
    rank = max(1, min(values.numel(), round(share * values.numel())))
    return float(values.kthvalue(rank).values)
