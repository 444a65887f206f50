"""Deeper stages that hand on what layer1 found, instead of features of their own.

What the formula objective teaches layer2 and layer3 tells its formulas apart, but moves as much with the normal variety
of a part as with a defect. Averages of layer1's features do not: they serve a nearest-neighbour memory better.
"""

from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atsnet.network.backbone import BasicBlock, ResNet18Trunk

SIXTEENTH_GAIN: Final = 0.3
"""Of the features at 1/16: defects are small, and what is averaged over 16 pixels should not drown them."""

_CENTRE: Final = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
_BINOMIAL: Final = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


@torch.no_grad()
def pass_on(trunk: ResNet18Trunk, images: Tensor) -> None:
    """Set layer2 and layer3 so that each hands on the features before it at half their size.

    The first half of a stage's channels are those before it, averaged with binomial weights; the second half says how
    far each stands out from that average, rectified and averaged in turn. The second block of a stage adds nothing,
    but can learn to.

    Args:
        trunk: Changed in place, and put in eval mode.
        images: `float [N, 3, H, W]`, RGB in 0..1. The running statistics of batch normalisation become theirs, so that
            training can go on from here; in eval mode they change nothing.
    """
    features = trunk.eval()(images)[0]
    for stage, gain in ((trunk.layer2, 1.0), (trunk.layer3, SIXTEENTH_GAIN)):
        features = _pass_on(stage, features, gain)


def _pass_on(stage: nn.Sequential, features: Tensor, gain: float) -> Tensor:
    first, second = cast(BasicBlock, stage[0]), cast(BasicBlock, stage[1])
    kept = torch.arange(features.shape[1])
    outstanding = kept + len(kept)
    nn.init.zeros_(first.conv1.weight)
    first.conv1.weight[kept, kept] = gain * _BINOMIAL
    first.conv1.weight[outstanding, kept] = gain * (_CENTRE - _BINOMIAL)
    nn.init.zeros_(first.conv2.weight)
    first.conv2.weight[kept, kept] = _CENTRE
    first.conv2.weight[outstanding, outstanding] = _BINOMIAL
    averaged = first.conv1(features)
    _let_through(first.bn1, averaged)
    _let_through(first.bn2, first.conv2(F.relu(averaged)))
    for silenced in (cast(nn.Sequential, first.downsample)[1], second.bn2):
        nn.init.zeros_(cast(nn.BatchNorm2d, silenced).weight)
        nn.init.zeros_(cast(nn.BatchNorm2d, silenced).bias)
    return cast(Tensor, stage(features))


def _let_through(norm: nn.BatchNorm2d, features: Tensor) -> None:
    """Undo the normalisation by scale and shift."""
    variance, mean = torch.var_mean(features, dim=(0, 2, 3))
    cast(Tensor, norm.running_mean).copy_(mean)
    cast(Tensor, norm.running_var).copy_(variance)
    norm.weight.copy_(torch.sqrt(variance + norm.eps))
    norm.bias.copy_(mean)
