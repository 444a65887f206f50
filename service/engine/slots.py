"""Shared memory between one worker and the engine: fixed slots, each with a header, a frame and a map.

The memory is an anonymous file that has no name anywhere: it is passed as a descriptor, and it is gone with the last
process that has it, however that process ends.

A slot belongs to one side at a time. The worker takes a free one, fills it and hands it over; the engine answers
exactly once, in the same slot, and with that it is the worker's again. What a client no longer waits for stays the
engine's until that answer. Slots that came back last are taken first: their pages are still in the caches, and one slow
inspection does not hold up the others, as it would in a ring that goes round in order.
"""

import math
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
    """How many slots there are, and how much room is in each; frames and maps of several sizes take turns in them."""

    count: int
    frame_bytes: int
    """Of the largest frame, uint8."""
    map_values: int
    """Of the largest map, float32."""

    @cached_property
    def slot_bytes(self) -> int:
        """Bytes of one slot, whole pages."""
        return _whole(self.map_offset + 4 * self.map_values, _PAGE)

    @cached_property
    def map_offset(self) -> int:
        """Where in a slot the map begins."""
        return HEADER_BYTES + _whole(self.frame_bytes, 64)

    def fits_into(self, other: "SlotLayout") -> bool:
        """Whether slots of another layout have room for all that these would."""
        return (
            self.count <= other.count and self.frame_bytes <= other.frame_bytes and self.map_values <= other.map_values
        )

    def or_larger(self, other: "SlotLayout") -> "SlotLayout":
        """The layout that both fit into."""
        return SlotLayout(
            max(self.count, other.count),
            max(self.frame_bytes, other.frame_bytes),
            max(self.map_values, other.map_values),
        )


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
        self._memory = memory
        self._bytes = memoryview(memory)

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

    def frame(self, slot: int, shape: tuple[int, int, int]) -> UInt8Array:
        """A slot's frame, `uint8 [H, W, C]`; a view of the shared memory.

        Raises:
            ValueError: A frame of that shape does not fit.
        """
        if math.prod(shape) > self.layout.frame_bytes:
            raise ValueError(f"a frame {shape} does not fit into {self.layout.frame_bytes} bytes")
        return np.ndarray(shape, np.uint8, self._memory, slot * self.layout.slot_bytes + HEADER_BYTES)

    def anomaly_map(self, slot: int, shape: tuple[int, ...]) -> Float32Array:
        """A slot's map, `float32 [h, w]`; a view of the shared memory.

        Raises:
            ValueError: A map of that shape does not fit.
        """
        if math.prod(shape) > self.layout.map_values:
            raise ValueError(f"a map {shape} does not fit into {self.layout.map_values} values")
        return np.ndarray(shape, np.float32, self._memory, slot * self.layout.slot_bytes + self.layout.map_offset)


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
