import pytest
import torch
from torch import Tensor

from atsnet.network.backbone import SCALE_CHANNELS
from atsnet.pretraining.objectives import FormulaObjective, VicregObjective, _vicreg


def features(count: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, channels, side, side, generator=generator)
        for channels, side in zip(SCALE_CHANNELS, (8, 4, 2), strict=True)
    ]


def latents(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_formula_loss_finds_marks_on_any_texture_and_tells_textures_apart() -> None:
    objective = FormulaObjective(textures=5, marks=2, texture_share=0.5, mark_weight=3.0)
    x = features()
    labels = [torch.arange(4 * s * s).view(4, s, s) % 7 for s in (8, 4, 2)]
    expected = []
    for head, f, y in zip(objective.heads, x, labels, strict=True):
        probabilities = head(f).softmax(dim=1)
        of_label = probabilities.gather(1, y.unsqueeze(1)).squeeze(1)
        of_any_texture = probabilities[:, :5].sum(dim=1)
        marked = y >= 5
        found = torch.where(marked, -3 * of_label.log(), -of_any_texture.log()).sum() / (3 * marked + ~marked).sum()
        told = -(of_label / of_any_texture).log()[~marked].mean()
        expected.append(found + 0.5 * told)
    assert torch.allclose(objective(x, labels), torch.stack(expected).mean())


def test_formula_loss_is_finite_where_everything_is_marked() -> None:
    objective = FormulaObjective(textures=5, marks=2)
    labels = [torch.full((4, s, s), 6) for s in (8, 4, 2)]
    assert torch.isfinite(objective(features(), labels))


def test_formula_objective_finds_labels_that_the_features_hold() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = FormulaObjective(textures=2, marks=1)
    x = features(8)
    labels = [f[:, :3].argmax(dim=1) for f in x]
    optimizer = torch.optim.Adam(objective.parameters(), 0.05)
    losses = []
    for _ in range(40):
        loss = objective(x, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def by_hand(first: Tensor, second: Tensor) -> float:
    """Bardes et al. 2022, with the coefficients 25, 25 and 1 and the two views' variance terms averaged."""
    count, width = first.shape
    loss = 25 * sum(float((first[i, j] - second[i, j]) ** 2) for i in range(count) for j in range(width))
    loss /= count * width
    for z in (first.double(), second.double()):
        covariance = torch.cov(z.T)
        for i in range(width):
            loss += 12.5 * max(0.0, 1 - (float(covariance[i, i]) + 1e-4) ** 0.5) / width
            loss += sum(float(covariance[i, j]) ** 2 for j in range(width) if j != i) / width
    return loss


def test_vicreg_equals_a_computation_by_hand() -> None:
    first, second = 0.5 * latents(6, 4), 0.5 * latents(6, 4, seed=1)
    assert _vicreg(first, second).item() == pytest.approx(by_hand(first, second), rel=1e-4)


def test_spread_and_uncorrelated_latents_that_agree_cost_nothing() -> None:
    corners = torch.tensor([[a, b, c] for a in (-2.0, 2.0) for b in (-2.0, 2.0) for c in (-2.0, 2.0)])
    assert _vicreg(corners, corners).item() == pytest.approx(0, abs=1e-5)


def test_each_failure_costs() -> None:
    corners = torch.tensor([[a, b, c] for a in (-2.0, 2.0) for b in (-2.0, 2.0) for c in (-2.0, 2.0)])
    collapsed = torch.ones(8, 3)
    assert _vicreg(corners, corners + 1).item() == pytest.approx(25, rel=1e-4)
    assert _vicreg(collapsed, collapsed).item() == pytest.approx(25 * (1 - 0.01), rel=1e-4)
    redundant = corners[:, :1].expand(-1, 3)
    assert _vicreg(redundant, redundant).item() > 10


def test_covariances_do_not_suffer_from_autocast() -> None:
    z = latents(64, 128)
    plain = _vicreg(z, z)
    with torch.autocast("cpu", torch.bfloat16):
        half = _vicreg(z, z)
    assert half.item() == pytest.approx(plain.item(), rel=1e-5)


def test_identical_views_have_no_invariance_term() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = VicregObjective(16)
    x = features(8)
    same, other = objective(x, x), objective(x, features(8, seed=1))
    assert same < other
    other.backward()
    assert all(p.grad is not None for p in objective.parameters())
