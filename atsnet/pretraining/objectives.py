"""What the trunk learns from: labels of procedural scenes, or agreement between two views of unlabelled images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.network.backbone import SCALE_CHANNELS


class FormulaObjective(nn.Module):
    """Find the marks on every texture, and tell, with a smaller weight, which formula drew the texture.

    One linear classifier on the features of each scale; supervising all three keeps the early layers, which matter
    most for small defects, as discriminative as the last. Its probabilities are read twice: a mark's kind against any
    texture at all, so that the features learn to stand out at what does not belong, and texture against texture.
    """

    mark_weights: Tensor

    def __init__(self, textures: int, marks: int, texture_share: float = 0.2, mark_weight: float = 4.0) -> None:
        super().__init__()
        self.textures, self.texture_share = textures, texture_share
        self.heads = nn.ModuleList(nn.Conv2d(channels, textures + marks, 1) for channels in SCALE_CHANNELS)
        # Marks cover a few cells in a hundred; unweighted, "no mark" would be a good answer.
        self.register_buffer("mark_weights", torch.tensor([1.0, *[mark_weight] * marks]))

    def forward(self, features: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Mean loss over the scales.

        Args:
            features: `[N, C, h, w]` of each scale.
            labels: `int64 [N, h, w]` of each scale: textures first, then marks.
        """
        losses = [self._loss(head(x).float(), y) for head, x, y in zip(self.heads, features, labels, strict=True)]
        return torch.stack(losses).mean()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        textures = logits[:, : self.textures]
        any_texture = textures.logsumexp(dim=1, keepdim=True)
        marked = labels >= self.textures
        mark = torch.where(marked, labels - self.textures + 1, 0)
        found = F.cross_entropy(torch.cat([any_texture, logits[:, self.textures :]], dim=1), mark, self.mark_weights)
        unmarked = F.cross_entropy(textures, labels.masked_fill(marked, -100), ignore_index=-100, reduction="sum")
        return found + self.texture_share * unmarked / (~marked).sum().clamp(min=1)


class VicregObjective(nn.Module):
    """Invariance, variance and covariance of two views (Bardes, Ponce, LeCun, "VICReg", ICLR 2022, equations 1-6).

    Applied to the pooled features of every scale, each with an expander of its own.
    """

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.expanders = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))
            for channels in SCALE_CHANNELS
        )

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Mean loss over the scales; the two sequences hold `[N, C, h, w]` features of the same images' views."""
        losses = [
            _vicreg(expander(_pool(a)).float(), expander(_pool(b)).float())
            for expander, a, b in zip(self.expanders, first, second, strict=True)
        ]
        return torch.stack(losses).mean()


def _pool(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3))


def _vicreg(first: Tensor, second: Tensor) -> Tensor:
    # Autocast would compute the covariances in bfloat16, whose 8 bits the off-diagonal sum does not survive.
    with torch.autocast(first.device.type, enabled=False):
        loss = 25 * F.mse_loss(first, second)
        for z in (first, second):
            centred = z - z.mean(dim=0)
            deviation = torch.sqrt(centred.var(dim=0) + 1e-4)
            covariance = (centred.T @ centred) / (len(z) - 1)
            off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
            loss = loss + 12.5 * F.relu(1 - deviation).mean() + off_diagonal / z.shape[1]
    return loss
