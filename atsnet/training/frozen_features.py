"""The frozen trunk's features of the training frames, computed once where no augmentation changes the pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atsnet.config import AugmentConfig, Config
from atsnet.data.augment import augment
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.progress import Reporter, silent
from atsnet.training.precision import bfloat16_pays

_VALUES_PER_PIXEL = (64 / 4**2) + (128 / 8**2) + (256 / 16**2)


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """What the trunk, and the memory where there is one, say of B frames."""

    raw: list[Tensor]
    """The backbone's features of the three scales."""
    inspect: Tensor
    """The frames' inspect masks at the map's size, `[B, H/4, W/4]`."""
    nearest: Tensor | None
    """Index of the prototype, of another part, that is nearest to each position, `int64 [B, H/8, W/8]`; None before the
    memory is filled, or without one."""


class FrozenFeatures:
    """Hands out the features of chosen training frames; from memory where that is allowed and possible."""

    def __init__(
        self,
        network: AtsNet,
        config: Config,
        frames: UInt8Array,
        device: torch.device,
        report: Reporter = silent,
        *,
        parts: NDArray[np.intp] | None = None,
        augmented: bool = True,
    ) -> None:
        """With a cache the trunk sees every frame once, here.

        Args:
            network: Whose trunk and memory it is.
            config: Says how large the cache may be and how frames are augmented.
            frames: `uint8 [N, H, W, C]`.
            device: Where the network is.
            report: Receives the progress.
            parts: Which part each frame shows, `[N]`; each its own by default.
            augmented: Frames that are not to be augmented are cached whatever the configuration says.
        """
        self.network, self.config, self.frames, self.device = network, config, frames, device
        self._parts = torch.from_numpy(np.arange(len(frames)) if parts is None else parts)
        self._looked_up = False
        self._half = config.training.bfloat16 and bfloat16_pays(device)
        self._cache: tuple[list[Tensor], Tensor] | None = None
        self._nearest: Tensor | None = None
        unchanged = config.augment == AugmentConfig() and self.cache_bytes() <= config.training.cache_megabytes * 2**20
        if unchanged or not augmented:
            self._cache = self._compute_all(report)

    def cache_bytes(self) -> int:
        """What the features of all frames take."""
        count, height, width = self.frames.shape[:3]
        return int(count * height * width * _VALUES_PER_PIXEL * (2 if self._half else 4))

    def batch(self, chosen: NDArray[np.intp], rng: np.random.Generator) -> FeatureBatch:
        """Features of frames.

        Args:
            chosen: Indices of frames.
            rng: Of the augmentation.
        """
        index = torch.from_numpy(chosen)
        if self._cache is None:
            raw, seen = self._compute(augment(self.frames[chosen], self.config.augment, rng))
            return FeatureBatch(raw, seen, self._find(raw, index) if self._looked_up else None)
        scales, inspect = self._cache
        nearest = None if self._nearest is None else self._nearest[index].to(self.device)
        return FeatureBatch([scale[index].to(self.device) for scale in scales], inspect[index].to(self.device), nearest)

    @torch.no_grad()
    def look_up(self, report: Reporter = silent) -> None:
        """Hand out the nearest prototypes too from now on, the memory being filled; with a cache, find them all now."""
        self._looked_up = self.network.memory is not None
        if not self._looked_up or self._cache is None:
            return
        size, found = self.config.training.batch_size, []
        for start in range(0, len(self.frames), size):
            raw = [scale[start : start + size].to(self.device) for scale in self._cache[0]]
            found.append(self._find(raw, torch.arange(start, start + len(raw[0]))).cpu())
            report("nearest prototypes", min(start + size, len(self.frames)), len(self.frames))
        self._nearest = torch.cat(found)

    @torch.no_grad()
    def _find(self, raw: list[Tensor], index: Tensor) -> Tensor:
        memory = self.network.memory
        assert memory is not None
        return memory.nearest_of_others(memory.project(memory.describe(raw)), self._parts[index].to(self.device))

    @torch.no_grad()
    def _compute(self, frames: UInt8Array) -> tuple[list[Tensor], Tensor]:
        images, inspect = self.network.unpack(torch.from_numpy(frames).to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            return list(self.network.backbone(images.contiguous(memory_format=torch.channels_last))), inspect

    def _compute_all(self, report: Reporter) -> tuple[list[Tensor], Tensor]:
        """All features, in the processor's memory: a GPU's is for the network."""
        size, count = self.config.training.batch_size, len(self.frames)
        kept: list[Tensor] = []
        for start in range(0, count, size):
            features, inspect = self._compute(self.frames[start : start + size])
            computed = [*features, inspect]
            # Room for all at once: joined at the end, they would take twice as much.
            kept = kept or [_room(count, x) for x in computed]
            for room, x in zip(kept, computed, strict=True):
                room[start : start + size] = x.cpu()
            report("features of the trunk", min(start + size, count), count)
        return kept[:-1], kept[-1]


def _room(count: int, like: Tensor) -> Tensor:
    """Room for so many of what `like` holds a batch of, in the same order of its axes."""
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty(count, *like.shape[1:], dtype=like.dtype, memory_format=form)
