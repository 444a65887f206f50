"""What the anomaly map learns from held-out normal frames: channel weights and the scales' quantiles."""

from collections.abc import Iterator

import torch
from torch import Tensor

from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.progress import Reporter, silent

LOWER_QUANTILE = 0.5
UPPER_QUANTILE = 0.995


@torch.inference_mode()
def fit_anomaly_map(network: AtsNet, frames: UInt8Array, batch_size: int, report: Reporter = silent) -> None:
    """Fit the network's `AnomalyMap` on held-out normal frames, `uint8 [N, H, W, C]`; the network is in eval mode.

    Padding is left out. Two passes: variances of the residuals first, then quantiles of the weighted distances.
    """
    scales = len(network.couplings)
    sums = [torch.zeros(()) for _ in range(scales)]
    counts = [0.0] * scales
    device = next(network.parameters()).device
    for done, (teacher, student, inspect) in enumerate(_latents(network, frames, batch_size, device)):
        for index, (t, s) in enumerate(zip(teacher, student, strict=True)):
            weight = _at(inspect, t).unsqueeze(1)
            sums[index] = sums[index] + ((t - s).square() * weight).sum(dim=(0, 2, 3)).double().cpu()
            counts[index] += float(weight.sum())
        report("fitting channel weights", min(len(frames), (done + 1) * batch_size), len(frames))
    network.anomaly_map.fit_channels([(total / count).float() for total, count in zip(sums, counts, strict=True)])
    distances: list[list[Tensor]] = [[] for _ in range(scales)]
    for done, (teacher, student, inspect) in enumerate(_latents(network, frames, batch_size, device)):
        for index, distance in enumerate(network.anomaly_map.distances(teacher, student)):
            distances[index].append(distance[_at(inspect, teacher[index]) > 0].cpu())
        report("fitting quantiles", min(len(frames), (done + 1) * batch_size), len(frames))
    merged = [torch.cat(parts) for parts in distances]
    lower = [_quantile(values, LOWER_QUANTILE) for values in merged]
    upper = [_quantile(values, UPPER_QUANTILE) for values in merged]
    network.anomaly_map.fit_scales(lower, upper)


def _latents(
    network: AtsNet, frames: UInt8Array, batch_size: int, device: torch.device
) -> Iterator[tuple[list[Tensor], tuple[Tensor, ...], Tensor]]:
    for start in range(0, len(frames), batch_size):
        images, inspect = network.unpack(torch.from_numpy(frames[start : start + batch_size]).to(device))
        features = network.standardise(network.backbone(images.contiguous(memory_format=torch.channels_last)))
        yield network.latents(features), network.student(features), inspect


def _at(inspect: Tensor, latents: Tensor) -> Tensor:
    """The inspect mask at the resolution of a scale's latents."""
    stride = inspect.shape[1] // latents.shape[2]
    return inspect[:, ::stride, ::stride]


def _quantile(values: Tensor, share: float) -> float:
    # torch.quantile refuses more than 2^24 values, which 64 frames at 1/4 nearly reach.
    rank = max(1, min(values.numel(), round(share * values.numel())))
    return float(values.kthvalue(rank).values)
