import torch
import torch.nn.functional as F

from atsnet.baselines import maps


def mask(count: int = 1, side: int = 8) -> torch.Tensor:
    inspected = torch.ones(count, side, side, dtype=torch.bool)
    inspected[:, :, side - 2 :] = False
    return inspected


def test_local_mean_counts_what_is_not_inspected_as_zero() -> None:
    x, inspected = torch.rand(2, 3, 8, 8), mask(2)
    result = maps.local_mean(x, inspected)
    assert torch.allclose(result[:, :, 3, 2], x[:, :, 2:5, 1:4].mean((2, 3)))
    assert torch.allclose(result[:, :, 3, 5], x[:, :, 2:5, 4:6].sum((2, 3)) / 9)  # column 6 is padding
    assert torch.allclose(result[:, :, 0, 0], x[:, :, :2, :2].sum((2, 3)) / 9)  # nothing lies beyond the corner
    assert torch.equal(result[:, :, :, 7], torch.zeros(2, 3, 8))


def test_resizing_without_padding_is_bilinear() -> None:
    x = torch.rand(1, 2, 4, 4)
    expected = F.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(maps.resize(x, torch.ones(1, 4, 4, dtype=torch.bool), (8, 8)), expected, atol=1e-6)


def test_what_lies_in_the_padding_reaches_no_map() -> None:
    calm, inspected, at_map = torch.rand(1, 8, 8), mask(), mask(side=16)
    at_map[:, :, 12:] = False
    loud = calm.clone()
    loud[:, :, 6:] = 1000.0
    result = maps.anomaly_map(calm, inspected, at_map)
    assert torch.equal(result, maps.anomaly_map(loud, inspected, at_map))
    assert torch.equal(result[:, :, 12:], torch.zeros(1, 16, 4))
    flat = maps.anomaly_map(torch.ones(1, 8, 8), inspected, at_map)
    assert torch.allclose(flat[:, :, :12], torch.ones(1, 16, 12), atol=1e-6)


def test_smoothing_is_a_gaussian() -> None:
    peak = torch.zeros(1, 21, 21)
    peak[0, 10, 10] = 1.0
    result = maps.smooth(peak, torch.ones(1, 21, 21, dtype=torch.bool), sigma=1.5)
    assert torch.allclose(result.sum(), torch.tensor(1.0), atol=1e-5)
    ratio = result[0, 10, 13] / result[0, 10, 10]
    assert torch.allclose(ratio, torch.exp(torch.tensor(-0.5 * (3 / 1.5) ** 2)), atol=1e-4)
