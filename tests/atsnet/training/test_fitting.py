from collections.abc import Mapping

import numpy as np
import pytest
import torch
from small_training import make_frames, make_network, small_config
from torch import Tensor

from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.training.fitting import LOWER_QUANTILE, UPPER_QUANTILE, fit_anomaly_map


def residuals(network: AtsNet, frames: UInt8Array) -> tuple[list[Tensor], list[Tensor]]:
    """Residuals of inspected positions, `[P, C]`, and weighted distances there, `[P]`, of each scale."""
    with torch.no_grad():
        images, inspect = network.unpack(torch.from_numpy(frames))
        features = network.standardise(network.backbone(images))
        teacher = [coupling(x)[0] for coupling, x in zip(network.couplings, features, strict=True)]
        student = network.student(features)
        inspected = [inspect[:, :: 16 // t.shape[2], :: 16 // t.shape[3]] > 0 for t in teacher]
        errors = [(t - s).permute(0, 2, 3, 1)[where] for t, s, where in zip(teacher, student, inspected, strict=True)]
        distances = network.anomaly_map.distances(teacher, student)
        return errors, [d[where] for d, where in zip(distances, inspected, strict=True)]


def fitted(frames: UInt8Array, batch_size: int = 3) -> AtsNet:
    network = make_network(small_config())
    images, _ = network.unpack(torch.from_numpy(make_frames(4, seed=9)))
    network.update_norms(network.backbone(images))
    fit_anomaly_map(network, frames, batch_size)
    return network


def test_channel_weights_are_inverse_mean_squares_of_inspected_residuals() -> None:
    frames = make_frames(5)
    network = fitted(frames)
    errors, _ = residuals(network, frames)
    for index, error in enumerate(errors):
        power = error.double().square().mean(dim=0).float()
        weight = getattr(network.anomaly_map, f"channel_weight_{index}")
        plain = power > 0.2 * power.median()  # below is the floor
        assert plain.sum() > len(power) / 2
        assert torch.allclose(weight[plain], 1 / power[plain], rtol=1e-3)


def test_quantiles_of_inspected_distances_become_zero_and_one() -> None:
    frames = make_frames(5)
    network = fitted(frames)
    _, distances = residuals(network, frames)
    for index, distance in enumerate(distances):
        normalised = (distance - network.anomaly_map.offsets[index]) * network.anomaly_map.gains[index]
        below_zero, below_one = (normalised <= 1e-4).float().mean(), (normalised <= 1 + 1e-4).float().mean()
        slack = 1.5 / len(distance)
        assert below_zero.item() == pytest.approx(LOWER_QUANTILE, abs=slack)
        assert below_one.item() == pytest.approx(UPPER_QUANTILE, abs=slack)


def test_the_batch_size_does_not_matter() -> None:
    frames = make_frames(5)
    first, second = fitted(frames, 1).anomaly_map, fitted(frames, 5).anomaly_map
    for (key, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=key)


def test_one_frame_is_enough_and_parameters_stay() -> None:
    network = make_network(small_config())
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

    fit_anomaly_map(make_network(small_config()), make_frames(5), 2, report)
    tasks = list(dict.fromkeys(task for task, _, _ in seen))
    assert len(tasks) == 2
    for task in tasks:
        assert [done for name, done, _ in seen if name == task] == [2, 4, 5]
    assert {total for _, _, total in seen} == {5}


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
    with pytest.raises(ValueError, match="scale 0: the quantiles"):
        fit_anomaly_map(network, frames, 2)
