"""The objectives of the two stages, a term a scale."""

from collections.abc import Sequence

import torch
from torch import Tensor

from atsnet.network.atsnet import AtsNet
from atsnet.network.coupling import negative_log_likelihood

SCALE_NAMES = ("1/4", "1/8", "1/16")


class NonFiniteLossError(RuntimeError):
    """A term of the loss became NaN or infinite; the message names stage, step and term."""


def teacher_terms(network: AtsNet, features: Sequence[Tensor]) -> list[Tensor]:
    """Stage 1: negative log-likelihood of standardised normal features under each scale's coupling (scalars)."""
    return [negative_log_likelihood(*coupling(x)) for coupling, x in zip(network.couplings, features, strict=True)]


def student_terms(
    teacher: Sequence[Tensor], student: Sequence[Tensor], inspect: Tensor, hard_fraction: float
) -> list[Tensor]:
    """Stage 2: mean squared error of the predicted latents at each scale (scalars).

    Args:
        teacher: Latents `[N, C, h, w]` of each scale.
        student: Predictions of the same shapes.
        inspect: `[N, H, W]`, 1 where the frame is inspected; padding does not count.
        hard_fraction: Share of the positions, those with the largest error, that count.
    """
    terms = []
    for t, s in zip(teacher, student, strict=True):
        error = (t.float() - s.float()).square().mean(dim=1)
        stride = inspect.shape[1] // error.shape[1]
        weight = inspect[:, ::stride, ::stride]
        if hard_fraction < 1:
            inspected = error[weight > 0]
            terms.append(inspected.topk(max(1, round(hard_fraction * inspected.numel()))).values.mean())
        else:
            terms.append((error * weight).sum() / weight.sum().clamp(min=1))
    return terms


def total_loss(terms: Sequence[Tensor], stage: int, step: int) -> Tensor:
    """Sum of the terms.

    Raises:
        NonFiniteLossError: A term is NaN or infinite.
    """
    for name, term in zip(SCALE_NAMES, terms, strict=True):
        if not torch.isfinite(term):
            raise NonFiniteLossError(
                f"stage {stage}, step {step}: the loss at scale {name} is {term.item()}; "
                "a lower learning rate or a smaller network.coupling_clamp may help"
            )
    return torch.stack(list(terms)).sum()
