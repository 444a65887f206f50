"""The frozen trunk over frames, in float32, with what is inspected at each scale."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import ResNet18Trunk
from atsnet.progress import Reporter, silent

FLOP_PER_MAC = 2


@dataclass(frozen=True, slots=True)
class Features:
    """A batch of frames as the trunk sees it."""

    scales: tuple[Tensor, ...]
    """`float32 [N, 64, H/4, W/4]`, `[N, 128, H/8, W/8]`, `[N, 256, H/16, W/16]`."""
    images: Tensor
    """`float [N, 3, H, W]` in 0..1, what the trunk was given."""
    mask: Tensor
    """`float [N, 1, H, W]`, 1 where the frame is inspected and 0 where it is padding."""

    def inspected(self, stride: int) -> Tensor:
        """`bool [N, H/stride, W/stride]`: whether at least half of a position's pixels are inspected."""
        return inspected(self.mask, stride)


class FrameTrunk:
    """A frozen copy of the trunk that takes frames."""

    def __init__(self, trunk: ResNet18Trunk, geometry: InputGeometry, device: torch.device) -> None:
        self.geometry, self.device = geometry, device
        self.trunk = copy.deepcopy(trunk).eval().requires_grad_(False).to(device)

    @property
    def parameters(self) -> int:
        """Numbers of the trunk."""
        return sum(parameter.numel() for parameter in self.trunk.parameters())

    def unpack(self, pixels: UInt8Array) -> tuple[Tensor, Tensor]:
        """Frames `uint8 [N, H, W, C]` as images, `float [N, 3, H, W]` in 0..1, and mask, `float [N, 1, H, W]`.

        Raises:
            ValueError: The frames are not of the detector's geometry.
        """
        if pixels.shape[1:] != self.geometry.frame_shape:
            raise ValueError(f"frames of {pixels.shape[1:]} given to a detector of {self.geometry.frame_shape}")
        planes = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        images = planes[:, :-1].float() / 255
        if self.geometry.color == "mono":
            images = images.expand(-1, 3, -1, -1)
        return images.contiguous(memory_format=torch.channels_last), (planes[:, -1:] >= 128).float()

    @torch.inference_mode()
    def features(self, pixels: UInt8Array) -> Features:
        """The trunk's features of a batch of frames, `uint8 [N, H, W, C]`."""
        images, mask = self.unpack(pixels)
        return Features(self.trunk(images), images, mask)

    def batches(
        self, pixels: UInt8Array, task: str, report: Reporter = silent, batch_size: int = 16
    ) -> Iterator[Features]:
        """Features of all frames in order, batch by batch; `report` is told of `task` after each."""
        for start in range(0, len(pixels), batch_size):
            batch = pixels[start : start + batch_size]
            yield self.features(batch)
            report(task, start + len(batch), len(pixels))

    def macs(self, network: nn.Module) -> int:
        """Multiply-accumulates of convolutions and linear layers that `network` makes of one frame."""
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            network(torch.zeros(1, 3, self.geometry.height, self.geometry.width, device=self.device))
        return counter.get_total_flops() // FLOP_PER_MAC


def inspected(mask: Tensor, stride: int) -> Tensor:
    """`float [N, 1, H, W]` to `bool [N, H/stride, W/stride]`: at least half of a position's pixels are inspected."""
    return F.avg_pool2d(mask, stride).squeeze(1) >= 0.5
