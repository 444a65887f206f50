import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atsnet.network.backbone import SCALE_CHANNELS
from atsnet.network.evidence import EvidenceHead, evidence_loss


def make(prototype_width: int | None = 12, dropout: float = 0.0) -> EvidenceHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EvidenceHead(8, prototype_width, dropout).eval()


def features(height: int = 16, width: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, height // factor, width // factor, generator=generator)
        for channels, factor in zip(SCALE_CHANNELS, (1, 2, 4), strict=True)
    ]


def missed(height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(2, 12, height, width, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_every_position_of_the_map_is_judged() -> None:
    assert make()(features(16, 32), missed(8, 16)).shape == (2, 16, 32)
    assert make(None)(features(16, 32), None).shape == (2, 16, 32)


@torch.no_grad()
def test_all_scales_and_what_was_missed_count() -> None:
    head = make()
    reference = head(features(), missed())
    for scale in range(3):
        changed = features()
        changed[scale] = changed[scale] + 1
        assert not torch.allclose(head(changed, missed()), reference), scale
    assert not torch.allclose(head(features(), missed() + 1), reference)


@torch.no_grad()
def test_how_much_was_missed_counts_apart_from_its_direction() -> None:
    head = make()
    assert head.missed is not None
    head.missed.weight.zero_()
    assert torch.equal(head(features(), missed()), head(features(), -missed()))
    assert not torch.allclose(head(features(), missed()), head(features(), 2 * missed()))


def test_dropout_acts_in_training_mode_and_all_parameters_learn() -> None:
    head = make(dropout=0.5).train()
    assert not torch.equal(head(features(), missed()), head(features(), missed()))
    head.eval()(features(), missed()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_loss_is_the_focal_cross_entropy_with_anomalies_counting_four_times() -> None:
    logits = torch.tensor([[[2.0, -1.0, 0.5, 9.0]]])
    anomalous = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]])
    inspect = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    right = torch.where(anomalous > 0, logits.sigmoid(), 1 - logits.sigmoid())
    each = (1 - right) ** 2 * -right.log() * torch.tensor([4.0, 1.0, 4.0, 0.0])
    assert evidence_loss(logits, anomalous, inspect).item() == pytest.approx(each.sum().item() / 3, rel=1e-5)


def test_loss_is_finite_for_certain_answers_and_for_nothing_inspected() -> None:
    logits = torch.tensor([[[200.0, -200.0]]], requires_grad=True)
    anomalous, inspect = torch.tensor([[[0.0, 1.0]]]), torch.ones(1, 1, 2)
    loss = evidence_loss(logits, anomalous, inspect)
    loss.backward()
    assert loss.item() == pytest.approx(200 * 5 / 2)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert evidence_loss(logits, anomalous, torch.zeros(1, 1, 2)).item() == 0


def test_a_head_learns_to_tell_what_was_missed() -> None:
    """From the loss alone: a square where the memory misses everything."""
    head = make().train()
    x, gap = features(), torch.zeros(2, 12, 8, 8)
    gap[:, :, 2:5, 2:5] = 1.0
    anomalous = F.interpolate(gap[:, :1], scale_factor=2.0).squeeze(1)
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    for _ in range(40):
        loss = evidence_loss(head(x, gap), anomalous, torch.ones(2, 16, 16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = head(x, gap)
    assert logits[anomalous > 0].mean() > logits[anomalous == 0].mean() + 2
