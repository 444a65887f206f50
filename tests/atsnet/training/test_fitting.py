import math
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
    student = network.predict(features, network.memory(raw) if network.memory else None)
    errors = []
    for t, s in zip(network.latents(features), student, strict=True):
        inspected = inspect[:, :: 16 // t.shape[2], :: 16 // t.shape[3]] > 0
        errors.append((t - s).permute(0, 2, 3, 1)[inspected])
    return errors


@torch.no_grad()
def evidence(network: AtsNet, frames: UInt8Array) -> tuple[list[Tensor], Tensor]:
    """Evidence of each source at the map's size, and the depths, 0 for padding; `[N, 16, 16]` each."""
    images, inspect = network.unpack(torch.from_numpy(frames))
    sources = [resize(x, (16, 16)) for x in network.evidence(network.backbone(images)) if x is not None]
    return sources, border_depth(inspect, network.anomaly_map.rings).sum(dim=1)


def quantiles(values: Tensor) -> tuple[float, float]:
    """The lower and the upper one, each a value that occurs."""
    ordered = values.sort().values
    low, high = (ordered[max(1, round(share * len(values))) - 1] for share in (LOWER_QUANTILE, UPPER_QUANTILE))
    return low.item(), high.item()


def check_ring(network: AtsNet, source: int, ring: int, own: Tensor, everywhere: Tensor) -> None:
    """Offset half way between the medians, spread the geometric mean of the spreads."""
    (low, high), (low_all, high_all) = quantiles(own), quantiles(everywhere)
    anomaly_map = network.anomaly_map
    assert anomaly_map.offsets[source, ring].item() == pytest.approx((low + low_all) / 2, rel=1e-3, abs=1e-4)
    spread = math.sqrt((high - low) * (high_all - low_all))
    assert anomaly_map.gains[source, ring].item() == pytest.approx(1 / spread, rel=1e-3)


def test_channel_weights_are_inverse_mean_squares_of_inspected_residuals() -> None:
    frames = make_frames(5)
    network = fitted(frames)
    for index, error in enumerate(residuals(network, frames)):
        power = error.double().square().mean(dim=0).float()
        weight = network.anomaly_map.channel_weight(index)
        plain = power > 0.2 * power.median()  # below is the floor
        assert plain.sum() > len(power) / 2
        assert torch.allclose(weight[plain], 1 / power[plain], rtol=1e-3)


@pytest.mark.parametrize(
    ("network", "count"), [({}, 5), ({"memory_size": 0, "student_sees": "features", "evidence_width": 0}, 3)]
)
def test_every_ring_is_half_way_between_its_own_quantiles_and_those_of_all(network: dict[str, Any], count: int) -> None:
    frames = make_frames(8)
    result = fitted(frames, **network)
    sources, depth = evidence(result, frames)
    assert len(sources) == count
    for index, source in enumerate(sources):
        for ring in range(3):
            own = source[depth == ring + 1]
            assert len(own) >= MIN_POSITIONS
            check_ring(result, index, ring, own, source[depth > 0])
        assert len(set(result.anomaly_map.offsets[index].tolist())) == 3


def test_with_one_ring_the_quantiles_become_zero_and_one() -> None:
    frames = make_frames(6)
    result = fitted(frames, border_rings=1)
    sources, depth = evidence(result, frames)
    for index, source in enumerate(sources):
        low, high = quantiles(source[depth > 0])
        offset, gain = (values[index, 0].item() for values in (result.anomaly_map.offsets, result.anomaly_map.gains))
        assert (low - offset) * gain == pytest.approx(0, abs=1e-3)
        assert (high - offset) * gain == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("count", "pooled"),
    [
        # Of one frame, the rings have 52, 44 and 96 positions: even all of them together are few.
        (1, [(1, 2, 3), (1, 2, 3), (1, 2, 3)]),
        # Of three, the innermost has 288; the outermost needs its one neighbour, and the middle one both.
        (3, [(1, 2), (1, 2, 3), (3,)]),
    ],
)
def test_a_ring_with_few_positions_borrows_its_neighbours(count: int, pooled: list[tuple[int, ...]]) -> None:
    frames = make_frames(count)
    result = fitted(frames)
    sources, depth = evidence(result, frames)
    assert [int((depth == ring).sum()) for ring in range(1, 4)] == [52 * count, 44 * count, 96 * count]
    for ring, rings in enumerate(pooled):
        own = sources[0][torch.isin(depth, torch.tensor(rings).float())]
        check_ring(result, 0, ring, own, sources[0][depth > 0])


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
    with pytest.raises(ValueError, match="memory: the quantiles"):
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
