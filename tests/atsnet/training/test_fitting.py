from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from small_training import make_frames, make_network, small_config
from torch import Tensor

from atsnet.imaging import UInt8Array
from atsnet.network.anomaly_map import border_depth, resize
from atsnet.network.atsnet import AtsNet
from atsnet.training.fitting import LOWER_QUANTILE, MIN_POSITIONS, UPPER_QUANTILE, fit_anomaly_map


def made(seed: int = 9, **network: Any) -> AtsNet:
    """A network with the statistics and the prototypes of other frames."""
    made = make_network(small_config(network=network))
    images, _ = made.unpack(torch.from_numpy(make_frames(4, seed=seed)))
    raw = made.backbone(images)
    made.update_norms(raw)
    if made.memory:
        made.memory.fit(made.memory.describe(raw).permute(0, 2, 3, 1).flatten(0, 2), 0)
    return made


def fitted(frames: UInt8Array, batch_size: int = 3, **network: Any) -> AtsNet:
    result = made(**network)
    fit_anomaly_map(result, frames, batch_size)
    return result


@torch.no_grad()
def residuals(network: AtsNet, frames: UInt8Array) -> list[Tensor]:
    """Residuals of inspected positions, `[P, C]`, of each scale."""
    images, inspect = network.unpack(torch.from_numpy(frames))
    raw = network.backbone(images)
    features = network.standardise(raw)
    student = network.predict(features, network.memory(raw)[0] if network.memory else None)
    errors = []
    for t, s in zip(network.latents(features), student, strict=True):
        inspected = inspect[:, :: 16 // t.shape[2], :: 16 // t.shape[3]] > 0
        errors.append((t - s).permute(0, 2, 3, 1)[inspected])
    return errors


@torch.no_grad()
def normalised(network: AtsNet, frames: UInt8Array) -> tuple[list[Tensor], Tensor]:
    """Distances of each source with offsets and gains applied, and the depths, 0 for padding; `[N, 16, 16]` each."""
    images, inspect = network.unpack(torch.from_numpy(frames))
    depth = border_depth(inspect, network.anomaly_map.rings).sum(dim=1)
    ring = (depth - 1).clamp(min=0).long()
    found = []
    for index, distance in enumerate(network.distances(network.backbone(images))):
        if distance is not None:
            offset, gain = (values[index][ring] for values in (network.anomaly_map.offsets, network.anomaly_map.gains))
            found.append((resize(distance, (16, 16)) - offset) * gain)
    return found, depth


def test_channel_weights_are_inverse_mean_squares_of_inspected_residuals() -> None:
    frames = make_frames(5)
    network = fitted(frames)
    for index, error in enumerate(residuals(network, frames)):
        power = error.double().square().mean(dim=0).float()
        weight = network.anomaly_map.channel_weight(index)
        plain = power > 0.2 * power.median()  # below is the floor
        assert plain.sum() > len(power) / 2
        assert torch.allclose(weight[plain], 1 / power[plain], rtol=1e-3)


@pytest.mark.parametrize("network", [{}, {"memory_size": 0, "student_sees": "features"}])
def test_every_rings_own_quantiles_become_zero_and_one(network: dict[str, Any]) -> None:
    frames = make_frames(8)
    result = fitted(frames, **network)
    sources, depth = normalised(result, frames)
    assert len(sources) == (3 if network else 4)
    for ring in range(1, 4):
        for values in sources:
            of_ring = values[depth == ring]
            assert len(of_ring) >= MIN_POSITIONS
            slack = 4.5 / len(of_ring)  # on the frame's edge, interpolated positions are equal in fours
            assert (of_ring <= 1e-4).float().mean().item() == pytest.approx(LOWER_QUANTILE, abs=slack)
            assert (of_ring <= 1 + 1e-4).float().mean().item() == pytest.approx(UPPER_QUANTILE, abs=slack)
    offsets = result.anomaly_map.offsets[: len(sources)]
    assert all(len(set(source)) == 3 for source in offsets.tolist())


def test_a_ring_with_few_positions_borrows_its_neighbours() -> None:
    """On one frame of 12 x 16 inspected positions the rings have 52, 44 and 96 of them."""
    frames = make_frames(1)
    result = fitted(frames)
    images, inspect = result.unpack(torch.from_numpy(frames))
    depth = border_depth(inspect, 3).sum(dim=1)
    assert [int((depth == ring).sum()) for ring in range(4)] == [64, 52, 44, 96]
    with torch.no_grad():
        distance = result.distances(result.backbone(images))[0]
    assert distance is not None
    # None has enough, nor have two of them: all are pooled.
    everywhere = distance[depth > 0].sort().values
    assert torch.allclose(result.anomaly_map.offsets[0], everywhere[round(LOWER_QUANTILE * 192) - 1].expand(3))
    frames = make_frames(3)
    images, inspect = result.unpack(torch.from_numpy(frames))
    result = fitted(frames)
    depth = border_depth(inspect, 3).sum(dim=1)
    with torch.no_grad():
        distance = result.distances(result.backbone(images))[0]
    assert distance is not None
    # Of three frames, the innermost has 288; the outermost needs its one neighbour, and the middle one both.
    for ring, pooled in enumerate(((1, 2), (1, 2, 3), (3,))):
        values = distance[torch.isin(depth, torch.tensor(pooled).float())].sort().values
        expected = values[round(LOWER_QUANTILE * len(values)) - 1]
        assert result.anomaly_map.offsets[0, ring].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_batch_size_does_not_matter() -> None:
    frames = make_frames(5)
    first, second = fitted(frames, 1).anomaly_map, fitted(frames, 5).anomaly_map
    for (key, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=key)


def test_one_frame_is_enough_and_parameters_stay() -> None:
    network = made()
    before = [parameter.clone() for parameter in network.parameters()]
    fit_anomaly_map(network, make_frames(1), 4)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert torch.isfinite(network.anomaly_map.gains).all()


def test_what_is_fitted_can_still_be_trained_and_saved() -> None:
    """Fitting runs without autograd; its results must be ordinary tensors all the same."""
    network = fitted(make_frames(3))
    score, _ = network(torch.from_numpy(make_frames(1, seed=2)))
    score.sum().backward()
    assert network.student.head_4.weight.grad is not None
    assert not any(value.is_inference() for value in network.state_dict().values())


def test_progress_reaches_the_number_of_frames() -> None:
    seen: list[tuple[str, int, int]] = []

    def report(task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        assert values is None
        seen.append((task, done, total))

    fit_anomaly_map(made(), make_frames(5), 2, report)
    tasks = list(dict.fromkeys(task for task, _, _ in seen))
    assert len(tasks) == 2
    for task in tasks:
        assert [done for name, done, _ in seen if name == task] == [2, 4, 5]
    assert {total for _, _, total in seen} == {5}


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"memory: the quantiles 0.0 and 0.0"):
        fit_anomaly_map(make_network(small_config()), make_frames(2), 2)


def test_a_scale_without_variation_is_refused() -> None:
    network = make_network(small_config())
    frames = np.zeros((2, 64, 64, 2), np.uint8)
    frames[..., 1] = 255
    with torch.no_grad():
        for parameter in [*network.student.parameters(), *network.backbone.parameters()]:
            parameter.zero_()
        network.student.head_8.bias.fill_(1.0)
        network.student.head_4.bias.fill_(1.0)
        network.student.head_16.bias.fill_(1.0)
    with pytest.raises(ValueError, match="1/4: the quantiles"):
        fit_anomaly_map(network, frames, 2)
