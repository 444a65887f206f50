"""Batch sizes that a GPU is prepared for: every shape is planned, warmed up and captured once, none on the way."""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from atsnet.imaging import Float32Array, UInt8Array

BUCKETS: Final = (1, 2, 4, 8, 16, 32)
"""Frames in a batch as the GPU sees it; what arrives is padded to the next of them."""


class Lane(Protocol):
    """One stream of a device with its buffers; called by one thread at a time."""

    def run(self, frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score exactly a bucket of frames; the answers are copies that the caller may keep."""

    def close(self) -> None:
        """Give the device's memory back."""


def run_padded(lane: Lane, frames: UInt8Array, buckets: Sequence[int]) -> tuple[Float32Array, Float32Array]:
    """Score any number of frames in as few batches as they fit in, padded to buckets."""
    most = max(buckets)
    scores: list[Float32Array] = []
    maps: list[Float32Array] = []
    for start in range(0, len(frames), most):
        part = frames[start : start + most]
        answer = lane.run(pad(part, bucket_for(len(part), buckets)))
        scores.append(answer[0][: len(part)])
        maps.append(answer[1][: len(part)])
    return np.concatenate(scores), np.concatenate(maps)


def bucket_for(count: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that `count` frames fit in.

    Raises:
        ValueError: There are none, or more than the largest bucket holds.
    """
    if count < 1:
        raise ValueError("a batch needs at least one frame")
    for bucket in sorted(buckets):
        if count <= bucket:
            return bucket
    raise ValueError(f"{count} frames do not fit into a batch of at most {max(buckets)}")


def pad(frames: UInt8Array, bucket: int) -> UInt8Array:
    """Fill a batch up with empty frames, `uint8 [N, H, W, C]` to `[bucket, H, W, C]`."""
    missing = bucket - len(frames)
    if missing < 0:
        raise ValueError(f"{len(frames)} frames do not fit into a batch of {bucket}")
    if missing == 0:
        return np.ascontiguousarray(frames)
    return np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), np.uint8)])
