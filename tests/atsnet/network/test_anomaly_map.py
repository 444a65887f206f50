import math

import pytest
import torch
from torch import Tensor

from atsnet.network.anomaly_map import AnomalyMap
from atsnet.network.backbone import SCALE_CHANNELS

NARROW = 0.01
"""A sigma in map pixels so small that smoothing changes nothing."""


def latents(value: float = 0.0, *, side: int = 8, count: int = 1) -> list[Tensor]:
    return [
        torch.full((count, channels, side // factor, side // factor), value)
        for channels, factor in zip(SCALE_CHANNELS, (1, 2, 4), strict=True)
    ]


def everything(side: int = 8, count: int = 1) -> Tensor:
    return torch.ones(count, side, side)


def test_distance_is_the_weighted_mean_of_squares() -> None:
    anomaly_map = AnomalyMap(1.0, 0.5)
    anomaly_map.channel_weight_0.copy_(torch.arange(64.0))
    teacher, student = latents(), latents()
    student[0][0, 3, 1, 2] = 2.0
    student[0][0, 5, 1, 2] = -1.0
    distances = anomaly_map.distances(teacher, student)
    expected = torch.zeros(8, 8)
    expected[1, 2] = (3 * 4 + 5 * 1) / 64
    assert torch.allclose(distances[0][0], expected)
    assert [d.shape for d in distances] == [(1, 8, 8), (1, 4, 4), (1, 2, 2)]
    assert all(torch.equal(d, torch.zeros_like(d)) for d in distances[1:])


def test_scales_are_normalised_and_averaged() -> None:
    anomaly_map = AnomalyMap(NARROW, 1.0)
    anomaly_map.fit_scales([1.0, 2.0, 4.0], [3.0, 3.0, 8.0])
    # A uniform residual of 3 has distance 9 everywhere: (9-1)/2, (9-2)/1 and (9-4)/4.
    score, result = anomaly_map(latents(3.0), latents(), everything())
    expected = (4 + 7 + 1.25) / 3
    assert torch.allclose(result, torch.full((1, 8, 8), expected))
    assert score.item() == pytest.approx(expected)


def test_scales_count_by_their_weights() -> None:
    anomaly_map = AnomalyMap(NARROW, 1.0, (3.0, 1.0, 0.0))
    teacher = [torch.full_like(x, value) for x, value in zip(latents(), (1.0, 2.0, 100.0), strict=True)]
    _, result = anomaly_map(teacher, latents(), everything())
    assert torch.allclose(result, torch.full((1, 8, 8), 0.75 * 1 + 0.25 * 4))


def test_a_fine_residual_stays_where_it_is() -> None:
    anomaly_map = AnomalyMap(NARROW, 1 / 64)
    student = latents()
    student[0][0, :, 2, 5] = 3.0
    score, result = anomaly_map(latents(), student, everything())
    expected = torch.zeros(8, 8)
    expected[2, 5] = 9 / 3
    assert torch.allclose(result[0], expected)
    assert score.item() == pytest.approx(3.0)


def test_smoothing_keeps_the_mean_of_a_flat_map_and_spreads_a_peak() -> None:
    anomaly_map = AnomalyMap(1.0, 1.0)
    _, flat = anomaly_map(latents(1.0), latents(), everything())
    assert torch.allclose(flat, torch.ones(1, 8, 8), atol=1e-6)
    student = latents(side=16)
    student[0][0, :, 8, 8] = math.sqrt(3)
    _, peak = anomaly_map(latents(side=16), student, everything(16))
    assert peak.sum().item() == pytest.approx(1.0, abs=1e-4)
    weights = [math.exp(-0.5 * d * d) for d in range(-3, 4)]
    assert peak[0, 8, 8].item() == pytest.approx((1 / sum(weights)) ** 2, rel=1e-4)
    assert peak[0, 8, 10].item() == pytest.approx(weights[5] / sum(weights) ** 2, rel=1e-4)


def test_residuals_below_normal_are_zero_not_negative() -> None:
    anomaly_map = AnomalyMap(1.0, 0.5)
    anomaly_map.fit_scales([1.0] * 3, [2.0] * 3)
    score, result = anomaly_map(latents(), latents(), everything())
    assert torch.equal(result, torch.zeros(1, 8, 8))
    assert score.item() == 0


def test_positions_not_inspected_are_zero_and_do_not_raise_the_score() -> None:
    anomaly_map = AnomalyMap(NARROW, 1 / 64)
    student = latents()
    student[0][0, :, 2, 5] = 3.0
    student[0][0, :, 6, 6] = 30.0
    inspect = everything()
    inspect[0, 6, 6] = 0
    score, result = anomaly_map(latents(), student, inspect)
    assert result[0, 6, 6] == 0
    assert score.item() == pytest.approx(3.0)


def test_what_lies_in_the_padding_does_not_reach_the_part() -> None:
    anomaly_map = AnomalyMap(1.5, 0.1)
    inspect = everything()
    inspect[:, :, 5:] = 0
    teacher, student = latents(), latents()
    teacher[0][:, :, 2:4, 1:3] = 1.0
    calm = anomaly_map(teacher, student, inspect)
    teacher[0][:, :, :, 5:] = 100.0
    loud = anomaly_map(teacher, student, inspect)
    assert torch.equal(calm[1], loud[1])
    assert torch.equal(calm[0], loud[0])
    assert calm[1][0, 2, 2] > 0
    # Next to the padding, a flat map stays flat: smoothing averages over what is inspected.
    flat = anomaly_map(latents(1.0), latents(), inspect)[1]
    assert torch.allclose(flat[:, :, :5], flat[0, 0, 0].expand(1, 8, 5))


def test_channels_that_do_not_vary_are_refused_by_scale() -> None:
    anomaly_map = AnomalyMap(1.0, 0.5)
    variances = [torch.ones(channels) for channels in SCALE_CHANNELS]
    variances[1][: len(variances[1]) // 2 + 1] = 0
    with pytest.raises(ValueError, match="scale 1"):
        anomaly_map.fit_channels(variances)


def test_score_is_the_mean_of_the_highest_share() -> None:
    anomaly_map = AnomalyMap(1.0, 0.25)
    picture = torch.randperm(64, generator=torch.Generator().manual_seed(0)).float().view(1, 8, 8)
    assert anomaly_map.score(torch.cat([picture, picture + 10])).tolist() == [55.5, 65.5]  # of 48..63
    assert AnomalyMap(1.0, 1e-6).score(picture).item() == 63


def test_channel_weights_are_inverse_variances_with_a_floor() -> None:
    anomaly_map = AnomalyMap(1.0, 0.5)
    variances = [torch.full((channels,), 2.0) for channels in SCALE_CHANNELS]
    variances[1][7] = 8.0
    variances[1][9] = 1e-9
    anomaly_map.fit_channels(variances)
    assert torch.equal(anomaly_map.channel_weight_0, torch.full((64,), 0.5))
    assert anomaly_map.channel_weight_1[7] == 0.125
    ratio = anomaly_map.channel_weight_1[9] / anomaly_map.channel_weight_1[0]
    assert 1 < ratio < 1000  # a channel that hardly varies counts more, yet does not rule


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_unusable_quantiles_are_refused_by_scale(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="scale 1: the quantiles"):
        AnomalyMap(1.0, 0.5).fit_scales([0.0, low, 0.0], [1.0, high, 1.0])


def test_half_precision_residuals_do_not_overflow() -> None:
    teacher = [x.half() for x in latents(300.0)]
    score, result = AnomalyMap(1.0, 0.5)(teacher, [x.half() for x in latents()], everything())
    assert result.dtype == score.dtype == torch.float32
    assert score.item() == pytest.approx(90_000.0)


def test_what_was_fitted_is_in_the_state() -> None:
    fitted, other = AnomalyMap(1.0, 0.5), AnomalyMap(1.0, 0.5)
    fitted.fit_scales([0.5, 0.2, 0.1], [1.0, 2.0, 3.0])
    fitted.fit_channels([torch.rand(channels) + 0.5 for channels in SCALE_CHANNELS])
    other.load_state_dict(fitted.state_dict())
    inputs = latents(2.0), latents(0.5), everything()
    assert torch.equal(fitted(*inputs)[1], other(*inputs)[1])
