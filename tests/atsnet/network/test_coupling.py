import pytest
import torch
from torch import Tensor

from atsnet.network.coupling import AffineCoupling, negative_log_likelihood


def random_coupling(channels: int = 6, *, clamp: float = 1.5, kernel: int = 1, seed: int = 0) -> AffineCoupling:
    """A coupling that is not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        coupling = AffineCoupling(channels, 8, clamp, kernel)
        torch.nn.init.normal_(coupling.subnet[-1].weight)
        torch.nn.init.normal_(coupling.subnet[-1].bias)
    return coupling.requires_grad_(False)


def features(channels: int = 6, size: int = 4) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kernel", [1, 3])
def test_inverse_undoes_forward(kernel: int) -> None:
    coupling, x = random_coupling(kernel=kernel), features()
    latents, log_determinant = coupling(x)
    assert latents.shape == x.shape
    assert log_determinant.shape == (2, 4, 4)
    assert not torch.allclose(latents, x.index_select(1, coupling.permutation), atol=0.1)
    assert torch.allclose(coupling.inverse(latents), x, atol=1e-5)


def test_starts_as_a_permutation_with_determinant_one() -> None:
    coupling = AffineCoupling(6, 8, 2.0)
    x = features()
    latents, log_determinant = coupling(x)
    assert torch.equal(latents, x.index_select(1, coupling.permutation))
    assert torch.equal(log_determinant, torch.zeros(2, 4, 4))
    assert sorted(coupling.permutation.tolist()) == list(range(6))


def test_permutation_is_the_same_in_every_instance_and_part_of_the_state() -> None:
    first, second = AffineCoupling(64, 8, 2.0), AffineCoupling(64, 8, 2.0)
    assert torch.equal(first.permutation, second.permutation)
    assert not torch.equal(first.permutation, torch.arange(64))
    assert "permutation" in first.state_dict()


def test_log_determinant_is_that_of_the_jacobian() -> None:
    coupling = random_coupling().double()
    x = features(size=1)[:1].double()
    jacobian = torch.autograd.functional.jacobian(lambda v: coupling(v.view(1, -1, 1, 1))[0].flatten(), x.flatten())
    _, expected = torch.linalg.slogdet(jacobian)
    _, log_determinant = coupling(x)
    assert log_determinant.abs().item() > 0.1
    assert torch.allclose(log_determinant.flatten(), expected.view(1))


def test_total_log_determinant_is_that_of_the_jacobian_also_with_a_larger_kernel() -> None:
    coupling = random_coupling(4, kernel=3).double()
    x = features(4, 3)[:1].double()
    jacobian = torch.autograd.functional.jacobian(lambda v: coupling(v.view(1, 4, 3, 3))[0].flatten(), x.flatten())
    _, expected = torch.linalg.slogdet(jacobian)
    assert torch.allclose(coupling(x)[1].sum(), expected)


def test_log_scale_stays_within_the_clamp_for_huge_inputs() -> None:
    coupling = random_coupling(clamp=1.5)
    huge = features() * 1e30
    latents, log_determinant = coupling(huge)
    half = huge.shape[1] // 2
    assert torch.isfinite(latents).all()
    assert log_determinant.abs().max() <= 1.5 * half * (1 + 1e-6)
    assert log_determinant.abs().max() > 0.5


def test_conditioning_half_passes_unchanged() -> None:
    coupling, x = random_coupling(), features()
    latents, _ = coupling(x)
    assert torch.equal(latents[:, :3], x.index_select(1, coupling.permutation[:3]))


def test_odd_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="even number of channels, not 5"):
        AffineCoupling(5, 8, 2.0)


def test_negative_log_likelihood_is_that_of_the_transformed_normal() -> None:
    coupling, x = random_coupling(), features()
    latents, log_determinant = coupling(x)
    normal = torch.distributions.Normal(0.0, 1.0)
    log_density = normal.log_prob(latents).sum(dim=1) + log_determinant
    constant = normal.log_prob(torch.tensor(0.0))
    expected = -(log_density.mean() / x.shape[1]) + constant
    assert torch.allclose(negative_log_likelihood(latents, log_determinant), expected, atol=1e-5)


def test_training_amplifies_a_violation_of_the_normal_dependence() -> None:
    """Half of the channels repeat the other half: what breaks that must stand out in the latents, not in the input."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coupling = AffineCoupling(4, 16, 2.0)
    condition, changed = coupling.permutation[:2], coupling.permutation[2:]

    def normal(count: int) -> Tensor:
        x = torch.empty(count, 4, 1, 1)
        base = torch.randn(count, 2, 1, 1, generator=generator)
        x[:, condition] = base
        x[:, changed] = base + 0.1 * torch.randn(count, 2, 1, 1, generator=generator)
        return x

    optimizer = torch.optim.Adam(coupling.parameters(), 0.02)
    losses = []
    for _ in range(200):
        loss = negative_log_likelihood(*coupling(normal(256)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    good = normal(512)
    broken = good.clone()
    broken[:, changed] += 1.0  # one standard deviation of that channel by itself
    with torch.no_grad():
        shift = (coupling(broken)[0] - coupling(good)[0]).abs()[:, 2:]
    assert shift.mean() > 3
