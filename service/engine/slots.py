"""Shared memory between one worker and the engine: fixed slots, each with a header, a frame and a map.

The memory is an anonymous file that has no name anywhere: it is passed as a descriptor, and it is gone with the last
process that has it, however that process ends.

A slot belongs to one side at a time. The worker takes a free one, fills it and hands it over; the engine answers
exactly once, in the same slot, and with that it is the worker's again. What a client no longer waits for stays the
engine's until that answer. Slots that came back last are taken first: their pages are still in the caches, and one slow
inspection does not hold up the others, as it would in a ring that goes round in order.
"""

import mmap
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np

from atsnet.imaging import Float32Array, UInt8Array

HEADER_BYTES: Final = 8192
"""Room for a request's fields or an answer, both compact JSON."""

_PAGE: Final = mmap.PAGESIZE
_GENERATIONS: Final = 2**32


class HeaderTooLargeError(ValueError):
    """A header does not fit into its slot."""


@dataclass(frozen=True)
class SlotLayout:
    """How many slots there are, and what is in each."""

    count: int
    frame_shape: tuple[int, int, int]
    """`(height, width, channels)` of a frame, uint8."""
    map_shape: tuple[int, int]
    """`(height, width)` of a map, float32."""

    @cached_property
    def slot_bytes(self) -> int:
        """Bytes of one slot, whole pages."""
        height, width, channels = self.frame_shape
        frame = height * width * channels
        content = HEADER_BYTES + _whole(frame, 64) + 4 * self.map_shape[0] * self.map_shape[1]
        return _whole(content, _PAGE)

    @cached_property
    def map_offset(self) -> int:
        """Where in a slot the map begins."""
        height, width, channels = self.frame_shape
        return HEADER_BYTES + _whole(height * width * channels, 64)


class SlotMemory:
    """The mapped slots; both sides have one on the same file.

    Args:
        layout: What is in it.
        descriptor: The file; it may be closed afterwards, the memory goes with the last view of it.

    Raises:
        ValueError: The file is smaller than the layout says.
    """

    def __init__(self, layout: SlotLayout, descriptor: int) -> None:
        self.layout = layout
        memory = mmap.mmap(descriptor, layout.count * layout.slot_bytes)
        self._bytes = memoryview(memory)
        starts = [slot * layout.slot_bytes for slot in range(layout.count)]
        self._frames = [np.ndarray(layout.frame_shape, np.uint8, memory, start + HEADER_BYTES) for start in starts]
        self._maps = [np.ndarray(layout.map_shape, np.float32, memory, start + layout.map_offset) for start in starts]

    @classmethod
    def create(cls, layout: SlotLayout) -> tuple[Self, int]:
        """New slots, all zero, and the file to pass on."""
        descriptor = os.memfd_create("atsnet-slots", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, layout.count * layout.slot_bytes)
            return cls(layout, descriptor), descriptor
        except OSError:
            os.close(descriptor)
            raise

    def header(self, slot: int, length: int) -> bytes:
        """The first `length` bytes of a slot's header."""
        start = slot * self.layout.slot_bytes
        return bytes(self._bytes[start : start + length])

    def put_header(self, slot: int, header: bytes) -> None:
        """Write a slot's header.

        Raises:
            HeaderTooLargeError: It is larger than the room for it.
        """
        if len(header) > HEADER_BYTES:
            raise HeaderTooLargeError(f"the header has {len(header)} bytes; a slot has room for {HEADER_BYTES}")
        start = slot * self.layout.slot_bytes
        self._bytes[start : start + len(header)] = header

    def frame(self, slot: int) -> UInt8Array:
        """A slot's frame, `uint8 [H, W, C]`; a view of the shared memory."""
        return self._frames[slot]

    def anomaly_map(self, slot: int) -> Float32Array:
        """A slot's map, `float32 [h, w]`; a view of the shared memory."""
        return self._maps[slot]


class SlotsFullError(Exception):
    """Every slot is taken."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A slot and the use of it: an answer to an earlier use has another generation."""

    slot: int
    generation: int


class FreeSlots:
    """The worker's list of free slots."""

    def __init__(self, count: int) -> None:
        self._free = list(reversed(range(count)))
        self._generations = [0] * count
        self._taken: set[int] = set()

    def __len__(self) -> int:
        """Slots that are free."""
        return len(self._free)

    def take(self) -> Taken:
        """Take the slot that came back last.

        Raises:
            SlotsFullError: There is none.
        """
        if not self._free:
            raise SlotsFullError(f"all {len(self._generations)} slots are taken")
        slot = self._free.pop()
        self._generations[slot] = (self._generations[slot] + 1) % _GENERATIONS
        self._taken.add(slot)
        return Taken(slot, self._generations[slot])

    def give_back(self, taken: Taken) -> bool:
        """Free a slot; whether it was taken for this very use."""
        if taken.slot not in self._taken or self._generations[taken.slot] != taken.generation:
            return False
        self._taken.remove(taken.slot)
        self._free.append(taken.slot)
        return True


def _whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit
