"""The shared backbone: ResNet-18 from the stem to layer3, frozen.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016). State-dict keys are those of
torchvision's `resnet18`, so that its published weights load as they are.
"""

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE_CHANNELS: Final = (64, 128, 256)
"""Channels of the features at 1/4, 1/8 and 1/16 of the frame's size."""
SCALE_STRIDES: Final = (4, 8, 16)

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class BackboneKeyError(ValueError):
    """A state dict does not hold the trunk of a ResNet-18; the message names the keys."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection (He et al. 2016, figure 5 left)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in, H, W]` to `[N, out, H / stride, W / stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet18Trunk(nn.Module):
    """ResNet-18 without layer4 and classifier; answers the features of layer1, layer2 and layer3."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # Constants of the published weights, not learned: outside the state dict, whose keys stay torchvision's.
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at three scales.

        Args:
            images: `float [N, 3, H, W]`, RGB in 0..1; H and W are multiples of 32.

        Returns:
            `[N, 64, H/4, W/4]`, `[N, 128, H/8, W/8]`, `[N, 256, H/16, W/16]`.
        """
        x = F.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        quarter = self.layer1(F.max_pool2d(x, 3, 2, 1))
        eighth = self.layer2(quarter)
        sixteenth = self.layer3(eighth)
        return quarter, eighth, sixteenth

    def load_trunk(self, state: Mapping[str, Tensor]) -> None:
        """Load a torchvision ResNet-18 state dict; keys of layer4 and the classifier are left out.

        Raises:
            BackboneKeyError: A key of the trunk is missing or has another shape.
        """
        wanted = self.state_dict()
        # Step counters of batch normalisation; files without them are as good, since the trunk never trains again.
        optional = {key for key in wanted if key.endswith("num_batches_tracked")}
        missing = sorted(key for key in wanted.keys() - optional if key not in state)
        if missing:
            raise BackboneKeyError(f"no ResNet-18 trunk: {len(missing)} keys are missing, the first is {missing[0]!r}")
        for key in wanted.keys() & state.keys():
            if state[key].shape != wanted[key].shape:
                raise BackboneKeyError(
                    f"no ResNet-18 trunk: {key!r} has shape {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
                )
        self.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})
