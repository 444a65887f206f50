import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

from atsnet.network.anomaly_map import LEAST_DISTANCE, SOURCES, AnomalyMap, border_depth
from atsnet.network.backbone import SCALE_CHANNELS

NARROW = 0.01
"""A sigma in map pixels so small that smoothing changes nothing."""


def make(
    smoothing_sigma: float = 1.0,
    score_fraction: float = 0.5,
    weights: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0),
    rings: int = 3,
) -> AnomalyMap:
    return AnomalyMap(smoothing_sigma, score_fraction, weights, rings)


def latents(value: float = 0.0, *, side: int = 8, count: int = 1) -> list[Tensor]:
    return [
        torch.full((count, channels, side // factor, side // factor), value)
        for channels, factor in zip(SCALE_CHANNELS, (1, 2, 4), strict=True)
    ]


def sources(*values: float, side: int = 8, count: int = 1) -> list[Tensor | None]:
    """Flat evidence of each source, 0 where none is given."""
    given = (*values, *(0.0 for _ in SOURCES[len(values) :]))
    return [
        torch.full((count, side // factor, side // factor), value)
        for value, factor in zip(given, (1, 2, 4, 2, 1), strict=True)
    ]


def peak(row: int, column: int, value: float, *, side: int = 8) -> list[Tensor | None]:
    """Evidence that is zero but at one position of the finest scale."""
    found = sources(side=side)
    assert found[0] is not None
    found[0][0, row, column] = value
    return found


def everything(side: int = 8, count: int = 1) -> Tensor:
    return torch.ones(count, side, side)


def test_distance_is_the_weighted_mean_of_squares() -> None:
    anomaly_map = make()
    anomaly_map.channel_weight(0).copy_(torch.arange(64.0))
    teacher, student = latents(), latents()
    student[0][0, 3, 1, 2] = 2.0
    student[0][0, 5, 1, 2] = -1.0
    residuals = anomaly_map.residual_distances(teacher, student)
    expected = torch.zeros(8, 8)
    expected[1, 2] = (3 * 4 + 5 * 1) / 64
    assert torch.allclose(residuals[0][0], expected)
    assert [d.shape for d in residuals] == [(1, 8, 8), (1, 4, 4), (1, 2, 2)]
    assert all(torch.equal(d, torch.zeros_like(d)) for d in residuals[1:])


def test_sources_are_normalised_and_averaged() -> None:
    anomaly_map = make(NARROW, 1.0)
    for index, (low, high) in enumerate([(1.0, 3.0), (2.0, 3.0), (4.0, 8.0), (0.5, 1.0), (-3.0, -1.0)]):
        anomaly_map.fit_source(index, [low] * 3, [high] * 3)
    score, result = anomaly_map(sources(9.0, 9.0, 9.0, 3.0, 1.0), everything())
    expected = (4 + 7 + 1.25 + 5 + 2) / 5
    assert torch.allclose(result, torch.full((1, 8, 8), expected))
    assert score.item() == pytest.approx(expected)


def test_sources_count_by_their_weights() -> None:
    anomaly_map = make(NARROW, 1.0, (3.0, 1.0, 0.0, 4.0, 2.0))
    _, result = anomaly_map(sources(1.0, 4.0, 100.0, 6.0, 5.0), everything())
    assert torch.allclose(result, torch.full((1, 8, 8), (3 * 1 + 1 * 4 + 4 * 6 + 2 * 5) / 10))


def test_distances_count_by_their_logarithm_from_the_least_on() -> None:
    distance = torch.tensor([0.0, LEAST_DISTANCE, 1.0, math.e**3])
    least = math.log(LEAST_DISTANCE)
    assert AnomalyMap.logarithm(distance).tolist() == pytest.approx([least, least, 0, 3])


def test_a_source_that_is_not_there_takes_no_share() -> None:
    anomaly_map = make(NARROW, 1.0, (1.0, 1.0, 2.0, 0.0, 0.0))
    assert sum(anomaly_map.shares) == 1
    found = sources(1.0, 5.0, 3.0)
    found[3] = found[4] = None
    _, result = anomaly_map(found, everything())
    assert torch.allclose(result, torch.full((1, 8, 8), 3.0))


def test_a_fine_residual_stays_where_it_is() -> None:
    score, result = make(NARROW, 1 / 64)(peak(2, 5, 15.0), everything())
    expected = torch.zeros(8, 8)
    expected[2, 5] = 15 / 5
    assert torch.allclose(result[0], expected)
    assert score.item() == pytest.approx(3.0)


def test_smoothing_keeps_the_mean_of_a_flat_map_and_spreads_a_peak() -> None:
    anomaly_map = make(1.0, 1.0)
    _, flat = anomaly_map(sources(1.0, 1.0, 1.0, 1.0, 1.0), everything())
    assert torch.allclose(flat, torch.ones(1, 8, 8), atol=1e-6)
    _, spread = anomaly_map(peak(8, 8, 5.0, side=16), everything(16))
    assert spread.sum().item() == pytest.approx(1.0, abs=1e-4)
    weights = [math.exp(-0.5 * d * d) for d in range(-3, 4)]
    assert spread[0, 8, 8].item() == pytest.approx((1 / sum(weights)) ** 2, rel=1e-4)
    assert spread[0, 8, 10].item() == pytest.approx(weights[5] / sum(weights) ** 2, rel=1e-4)


def test_evidence_below_normal_are_zero_not_negative() -> None:
    anomaly_map = make()
    for index in range(len(SOURCES)):
        anomaly_map.fit_source(index, [1.0] * 3, [2.0] * 3)
    score, result = anomaly_map(sources(), everything())
    assert torch.equal(result, torch.zeros(1, 8, 8))
    assert score.item() == 0


def test_a_source_that_finds_nothing_does_not_speak_against_the_others() -> None:
    anomaly_map = make(NARROW, 1.0)
    _, silent = anomaly_map(sources(2.0, 3.0, 0.0, 0.0, 0.0), everything())
    _, below = anomaly_map(sources(2.0, 3.0, -5.0, -1.0, -7.0), everything())
    assert torch.equal(below, silent)
    assert torch.allclose(silent, torch.ones(1, 8, 8))


def test_positions_not_inspected_are_zero_and_do_not_raise_the_score() -> None:
    found, inspect = peak(2, 5, 15.0), everything()
    assert found[0] is not None
    found[0][0, 6, 6] = 900.0
    inspect[0, 6, 6] = 0
    score, result = make(NARROW, 1 / 64)(found, inspect)
    assert result[0, 6, 6] == 0
    assert score.item() == pytest.approx(3.0)


def test_what_lies_in_the_padding_does_not_reach_the_part() -> None:
    anomaly_map = make(1.5, 0.1)
    inspect = everything()
    inspect[:, :, 5:] = 0
    found = sources()
    assert found[0] is not None
    found[0][:, 2:4, 1:3] = 1.0
    calm = anomaly_map(found, inspect)
    found[0][:, :, 5:] = 1e4
    loud = anomaly_map(found, inspect)
    assert torch.equal(calm[1], loud[1])
    assert torch.equal(calm[0], loud[0])
    assert calm[1][0, 2, 2] > 0
    # Next to the padding, a flat map stays flat: smoothing averages over what is inspected.
    flat = anomaly_map(sources(1.0, 1.0, 1.0, 1.0, 1.0), inspect)[1]
    assert torch.allclose(flat[:, :, :5], torch.ones(1, 8, 5))


def test_every_ring_below_the_border_has_its_own_quantiles() -> None:
    anomaly_map = make(NARROW, 1.0, (1.0, 0.0, 0.0, 0.0, 0.0))
    lower, upper = [1.0, 2.0, 4.0], [5.0, 4.0, 5.0]
    anomaly_map.fit_source(0, lower, upper)
    inspect = everything(12)
    inspect[:, :, 8:] = 0
    _, result = anomaly_map(sources(10.0, side=12), inspect)
    for ring, (low, high) in enumerate(zip(lower, upper, strict=True)):
        # From the top edge of the frame, and from the padding on the right.
        assert result[0, ring, 4].item() == pytest.approx((10 - low) / (high - low))
        assert result[0, 6, 7 - ring].item() == pytest.approx((10 - low) / (high - low))
    assert result[0, 6, 3].item() == pytest.approx(6.0)  # the last ring reaches inwards
    assert torch.equal(result[0, :, 8:], torch.zeros(12, 4))


def test_depth_of_a_small_area_by_hand() -> None:
    inspect = torch.zeros(1, 7, 9)
    inspect[0, 0:5, 2:8] = 1  # on the frame's upper edge, padding on the three others
    expected = torch.tensor(
        [
            [0, 0, 1, 1, 1, 1, 1, 1, 0],
            [0, 0, 1, 2, 2, 2, 2, 1, 0],
            [0, 0, 1, 2, 3, 3, 2, 1, 0],
            [0, 0, 1, 2, 2, 2, 2, 1, 0],
            [0, 0, 1, 1, 1, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
    ).float()
    depth = border_depth(inspect, 5)
    assert depth.shape == (1, 5, 7, 9)
    assert torch.equal(depth.sum(dim=1)[0], expected)
    for ring in range(5):
        assert torch.equal(depth[0, ring], (expected > ring).float())
    assert torch.equal(border_depth(inspect, 2).sum(dim=1)[0], expected.clamp(max=2))


def test_depth_is_the_chessboard_distance_to_what_is_outside() -> None:
    rng = np.random.default_rng(0)
    masks = np.stack([rng.random((20, 26)) < share for share in (0.0, 0.7, 0.97, 0.995, 1.0)])
    masks[2, :, :9] = False
    rings = 6
    depth = border_depth(torch.from_numpy(masks), rings).sum(dim=1).numpy()
    for mask, found in zip(masks, depth, strict=True):
        expected = distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
        np.testing.assert_array_equal(found, np.minimum(expected, rings))
    assert depth.max() == rings


def test_channels_that_do_not_vary_are_refused_by_scale() -> None:
    variances = [torch.ones(channels) for channels in SCALE_CHANNELS]
    variances[1][: len(variances[1]) // 2 + 1] = 0
    with pytest.raises(ValueError, match="scale 1"):
        make().fit_channels(variances)


def test_score_is_the_mean_of_the_highest_share() -> None:
    picture = torch.randperm(64, generator=torch.Generator().manual_seed(0)).float().view(1, 8, 8)
    assert make(1.0, 0.25).score(torch.cat([picture, picture + 10])).tolist() == [55.5, 65.5]  # of 48..63
    assert make(1.0, 1e-6).score(picture).item() == 63


def test_channel_weights_are_inverse_variances_with_a_floor() -> None:
    anomaly_map = make()
    variances = [torch.full((channels,), 2.0) for channels in SCALE_CHANNELS]
    variances[1][7] = 8.0
    variances[1][9] = 1e-9
    anomaly_map.fit_channels(variances)
    assert torch.equal(anomaly_map.channel_weight(0), torch.full((64,), 0.5))
    weights = anomaly_map.channel_weight(1)
    assert weights[7] == 0.125
    assert 1 < weights[9] / weights[0] < 1000  # a channel that hardly varies counts more, yet does not rule


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
@pytest.mark.parametrize(("index", "name"), [(1, "1/8"), (3, "memory")])
def test_unusable_quantiles_are_refused_by_source(index: int, name: str, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: the quantiles {low} and {high}"):
        make().fit_source(index, [0.0, low, 0.0], [1.0, high, 1.0])


def test_half_precision_residuals_do_not_overflow() -> None:
    anomaly_map = make(1.0, 0.5, (1.0, 1.0, 1.0, 0.0, 0.0))
    residuals = anomaly_map.residual_distances([x.half() for x in latents(300.0)], [x.half() for x in latents()])
    score, result = anomaly_map([*residuals, None, None], everything())
    assert result.dtype == score.dtype == torch.float32
    assert score.item() == pytest.approx(90_000.0)


def test_what_was_fitted_is_in_the_state() -> None:
    fitted, other = make(), make()
    for index in range(len(SOURCES)):
        fitted.fit_source(index, [0.5, 0.2, 0.1], [1.0, 2.0, 3.0 + index])
    fitted.fit_channels([torch.rand(channels) + 0.5 for channels in SCALE_CHANNELS])
    other.load_state_dict(fitted.state_dict())
    residuals = fitted.residual_distances(latents(2.0), latents(0.5))
    assert torch.equal(residuals[1], other.residual_distances(latents(2.0), latents(0.5))[1])
    _, first = fitted(sources(2.0, 1.0, 4.0, 3.0), everything())
    assert torch.equal(first, other(sources(2.0, 1.0, 4.0, 3.0), everything())[1])
    assert first.max() > 0
