import numpy as np
import pytest
import torch

from atsnet.network.ema_norm import EmaNorm


def batches(count: int, *, mean: float = 2.0, deviation: float = 3.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    offsets = torch.tensor([0.0, 1.0, -4.0]).view(1, 3, 1, 1)
    return [torch.randn(2, 3, 4, 5, generator=generator) * deviation + mean + offsets for _ in range(count)]


def reference(data: list[torch.Tensor], momentum: float, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected moving averages of the first two moments, one channel and one value after the other."""
    means, deviations = [], []
    for channel in range(data[0].shape[1]):
        first = second = 0.0
        for batch in data:
            values = [float(v) for v in batch[:, channel].flatten()]
            first = momentum * first + (1 - momentum) * sum(values) / len(values)
            second = momentum * second + (1 - momentum) * sum(v * v for v in values) / len(values)
        correction = 1 - momentum ** len(data)
        mean = first / correction
        means.append(mean)
        deviations.append((second / correction - mean**2 + eps) ** 0.5)
    return np.array(means), np.array(deviations)


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_statistics_follow_the_bias_corrected_averages(momentum: float, count: int) -> None:
    norm = EmaNorm(3, momentum)
    data = batches(count)
    for batch in data:
        norm.update(batch)
    mean, deviation = norm.statistics()
    expected_mean, expected_deviation = reference(data, momentum, norm.eps)
    np.testing.assert_allclose(mean.numpy(), expected_mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(deviation.numpy(), expected_deviation, rtol=1e-3)


def test_first_batch_alone_standardises_itself() -> None:
    norm = EmaNorm(3, 0.99)
    (batch,) = batches(1)
    norm.update(batch)
    y = norm.eval()(batch)
    assert torch.allclose(y.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3)
    assert torch.allclose(y.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-3)


def test_identity_before_the_first_batch() -> None:
    norm = EmaNorm(3).eval()
    (batch,) = batches(1)
    assert torch.allclose(norm(batch), batch, rtol=1e-4)
    mean, _ = norm.statistics()
    assert torch.equal(mean, torch.zeros(3))


def test_eval_mode_leaves_the_averages_and_training_mode_moves_them() -> None:
    norm = EmaNorm(3, 0.9)
    first, second = batches(2)
    norm.update(first)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    norm.eval()(second)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    norm.train()(second)
    assert all(not torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_nothing_is_learned_by_gradient_and_half_precision_stays_out() -> None:
    norm = EmaNorm(3)
    assert list(norm.parameters()) == []
    (batch,) = batches(1)
    norm.update(batch.to(torch.bfloat16))
    y = norm.eval()(batch.half())
    assert y.dtype == torch.float32
    assert norm.first_moment.dtype == norm.second_moment.dtype == torch.float32


def test_constant_channel_stays_finite() -> None:
    norm = EmaNorm(1)
    norm.update(torch.full((2, 1, 4, 4), 7.0))
    assert torch.isfinite(norm.eval()(torch.full((1, 1, 2, 2), 7.5))).all()


def test_state_dict_round_trip() -> None:
    norm, other = EmaNorm(3, 0.9), EmaNorm(3, 0.9)
    for batch in batches(3):
        norm.update(batch)
    other.load_state_dict(norm.state_dict())
    x = batches(1)[0]
    assert torch.equal(norm.eval()(x), other.eval()(x))


@pytest.mark.parametrize("momentum", [0.0, 1.0, -0.1, 1.5])
def test_momentum_outside_its_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1, not {momentum}"):
        EmaNorm(3, momentum)
