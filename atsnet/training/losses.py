"""The objectives of teacher and student, a term a scale."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atsnet.network.atsnet import AtsNet
from atsnet.network.coupling import negative_log_likelihood

SCALE_NAMES = ("1/4", "1/8", "1/16")


class NonFiniteLossError(RuntimeError):
    """A term of the loss became NaN or infinite; the message names stage, step and term."""


def teacher_terms(network: AtsNet, features: Sequence[Tensor]) -> dict[str, Tensor]:
    """Stage 1: negative log-likelihood of standardised normal features under each scale's coupling (scalars)."""
    return {
        name: negative_log_likelihood(*coupling(x))
        for name, coupling, x in zip(SCALE_NAMES, network.couplings, features, strict=True)
    }


def student_terms(
    teacher: Sequence[Tensor], student: Sequence[Tensor], inspect: Tensor, hard_fraction: float
) -> dict[str, Tensor]:
    """Stage 2: mean squared error of the predicted latents at each scale (scalars).

    Args:
        teacher: Latents `[N, C, h, w]` of each scale.
        student: Predictions of the same shapes.
        inspect: `[N, H, W]`, 1 where the frame is inspected; padding does not count.
        hard_fraction: Share of the positions, those with the largest error, that count.
    """
    terms = {}
    for name, t, s in zip(SCALE_NAMES, teacher, student, strict=True):
        error = (t.float() - s.float()).square().mean(dim=1)
        stride = inspect.shape[1] // error.shape[1]
        weight = inspect[:, ::stride, ::stride]
        if hard_fraction < 1:
            inspected = error[weight > 0]
            terms[name] = inspected.topk(max(1, round(hard_fraction * inspected.numel()))).values.mean()
        else:
            terms[name] = (error * weight).sum() / weight.sum().clamp(min=1)
    return terms


def total_loss(terms: Mapping[str, Tensor], stage: int, step: int) -> Tensor:
    """Sum of the terms.

    Raises:
        NonFiniteLossError: A term is NaN or infinite.
    """
    for name, term in terms.items():
        if not torch.isfinite(term):
            raise NonFiniteLossError(
                f"stage {stage}, step {step}: the loss of {name} is {term.item()}; "
                "a lower learning rate or a smaller network.coupling_clamp may help"
            )
    return torch.stack(list(terms.values())).sum()
