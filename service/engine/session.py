"""A worker's connection to one engine, from its welcome to its end."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from atsnet.imaging import Float32Array, UInt8Array
from service.engine import blobs
from service.engine.channel import Channel, HandOff
from service.engine.messages import Kind, Welcome, as_problem
from service.engine.slots import (
    HEADER_BYTES,
    FreeSlots,
    HeaderTooLargeError,
    SlotLayout,
    SlotMemory,
    SlotsFullError,
    Taken,
)
from service.monitoring.documents import DriftNews

log = structlog.get_logger(__name__)

_ENDED: Final = "the engine process ended before it answered"


class EngineLostError(Exception):
    """The engine ended, or was not there in the first place."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The engine's answer to one hand-off."""

    kind: Kind
    header: bytes
    anomaly_map: Float32Array | None
    """A copy of all values that there is room for, where it was asked for; the reply says how many mean something."""


@dataclass(frozen=True, slots=True)
class Blob:
    """The engine's answer to a call."""

    answer: dict[str, Any]
    data: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    taken: Taken
    future: asyncio.Future[Answered]
    wants_map: bool


class _Memory:
    """One memory with the uses of its slots; a larger one takes its place when frames or maps grow."""

    def __init__(self, number: int, slots: SlotMemory) -> None:
        self.number = number
        self.slots = slots
        self.free = FreeSlots(slots.layout.count)
        self.waiting: dict[int, _Waiting] = {}

    @property
    def unused(self) -> bool:
        """Whether all of its slots are free."""
        return len(self.free) == self.slots.layout.count


class Session:
    """Hands frames over and takes answers back.

    Args:
        sock: The worker's end of the connection, owned from here on.
        on_welcome: Told when the engine is there.
        on_end: Told when it has gone; whoever waits has been told already.
        on_recorded: Told, after `listen`, when inspections were recorded.
        on_drift: Told when a recipe's parts have drifted, or are back.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_welcome: Callable[["Session", Welcome], None],
        on_end: Callable[["Session"], None],
        on_recorded: Callable[[], None] = lambda: None,
        on_drift: Callable[[DriftNews], None] = lambda _: None,
    ) -> None:
        self._on_welcome = on_welcome
        self._tell_end = on_end
        self._on_recorded = on_recorded
        self._on_drift = on_drift
        self._memory: _Memory | None = None
        """The newest, for requests to come."""
        self._memories: dict[int, _Memory] = {}
        self._calls: dict[int, asyncio.Future[Blob]] = {}
        self._last_call = 0
        self._channel = Channel(sock, on_batch=self._on_batch, on_note=self._on_note, on_end=self._on_end)

    async def inspect(
        self, header: bytes, frame: UInt8Array | None, image: bytes | None, *, wants_map: bool
    ) -> Answered:
        """Hand one inspection over and wait for its answer; see `ask`."""
        return await self.ask(Kind.INSPECT, header, frame, image, wants_map=wants_map)

    async def ask(
        self, kind: Kind, header: bytes, frame: UInt8Array | None, image: bytes | None, *, wants_map: bool
    ) -> Answered:
        """Hand one frame over and wait for its answer; cancelling withdraws it.

        Args:
            kind: What is asked, `INSPECT` or `SCORE`.
            header: What goes with it; of an inspection as `encode_request` makes it.
            frame: `uint8 [H, W, C]`, `None` where the header is a refusal.
            image: To be kept, as it was sent; `None` where nothing is kept.
            wants_map: Whether the answer shall bring the map.

        Raises:
            SlotsFullError: As many are under way as there are slots.
            EngineLostError: The engine ended before it answered.
            HeaderTooLargeError: The header does not fit into a slot.
        """
        if len(header) > HEADER_BYTES:
            raise HeaderTooLargeError(f"the request's fields take {len(header)} bytes, more than {HEADER_BYTES}")
        descriptor = None if image is None else await self._as_file(image)
        memory = self._memory
        try:
            if memory is None:
                raise EngineLostError(_ENDED)
            taken = memory.free.take()
        except (EngineLostError, SlotsFullError):
            if descriptor is not None:
                os.close(descriptor)
            raise
        waiting = _Waiting(taken, asyncio.get_running_loop().create_future(), wants_map)
        memory.waiting[taken.slot] = waiting
        memory.slots.put_header(taken.slot, header)
        if frame is not None:
            memory.slots.frame(taken.slot, frame.shape)[...] = frame
        self._channel.hand_off(HandOff(kind, taken.slot, taken.generation, len(header), descriptor, memory.number))
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if memory.waiting.get(taken.slot) is waiting:
                self._withdraw(memory, taken)
            raise

    def _withdraw(self, memory: _Memory, taken: Taken) -> None:
        self._channel.hand_off(HandOff(Kind.WITHDRAW, taken.slot, taken.generation, 0, None, memory.number))

    async def _as_file(self, image: bytes) -> int:
        if len(image) < blobs.LARGE:
            return blobs.put(image)
        return await asyncio.to_thread(blobs.put, image)

    async def call(self, what: str, **arguments: Any) -> Blob:
        """Ask for something that needs no slot; the arguments are JSON.

        Raises:
            EngineLostError: The engine ended before it answered, or could not.
            Problem: The engine refused.
        """
        if self._channel.closed:
            raise EngineLostError(_ENDED)
        self._last_call += 1
        number = self._last_call
        future: asyncio.Future[Blob] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self._channel.note({"call": number, "what": what, "arguments": arguments})
        try:
            blob = await future
        finally:
            del self._calls[number]
        if "problem" in blob.answer:
            raise as_problem(blob.answer["problem"])
        if blob.answer.get("failed"):
            raise EngineLostError("the engine could not answer; its log says why")
        return blob

    def count(self, counts: Sequence[tuple[str | None, str, int]], missed: int) -> None:
        """Send what was counted since the last time."""
        self._channel.note({"counts": counts, "missed": missed})

    def listen(self, listening: bool) -> None:
        """Be told of what is recorded from now on, or no longer."""
        self._channel.note({"listen": listening})

    def report_lost(self, header: bytes, why: str) -> None:
        """Have an inspection recorded that an earlier engine took along and that was answered an error."""
        self._channel.note({"lost": header.decode(), "why": why})

    def let_go(self, edition: int) -> None:
        """Say that no request will name that edition any more."""
        self._channel.note({"let_go": edition})

    def give_up(self, error: Exception) -> None:
        """End the wait of everyone, with `error`."""
        for memory in self._memories.values():
            for waiting in memory.waiting.values():
                if not waiting.future.done():
                    waiting.future.set_exception(error)
                    self._withdraw(memory, waiting.taken)

    def close(self) -> None:
        """Leave; everyone who waits is told."""
        self._channel.close()
        self._fail_all()

    def _on_note(self, note: dict[str, Any], descriptors: list[int]) -> None:
        if "welcome" in note:
            welcome = Welcome.model_validate_json(blobs.take(descriptors[0]))
            self._make_room(welcome.layout)
            self._on_welcome(self, welcome)
        elif "recorded" in note:
            self._on_recorded()
        elif "drift" in note:
            self._on_drift(DriftNews.model_validate_json(note["drift"]))
        elif "answer" in note:
            data = blobs.take(descriptors[0]) if descriptors else None
            future = self._calls.get(note["answer"])
            if future is not None and not future.done():
                future.set_result(Blob(note, data))

    def _on_batch(self, batch: Sequence[HandOff]) -> None:
        for hand_off in batch:
            self._take_back(hand_off)

    def _make_room(self, layout: SlotLayout) -> None:
        before = self._memory
        if before is not None:
            if layout.fits_into(before.slots.layout):
                return
            layout = layout.or_larger(before.slots.layout)
        number = 0 if before is None else before.number + 1
        slots, descriptor = SlotMemory.create(layout)
        self._memory = self._memories[number] = _Memory(number, slots)
        told = (layout.count, layout.frame_bytes, layout.map_values)
        self._channel.note({"memory": number, "layout": told}, [descriptor])
        if before is not None:
            self._drop_if_unused(before)

    def _drop_if_unused(self, memory: _Memory) -> None:
        if memory is not self._memory and memory.unused:
            del self._memories[memory.number]
            self._channel.note({"dropped": memory.number})

    def _take_back(self, hand_off: HandOff) -> None:
        memory = self._memories.get(hand_off.memory)
        if memory is None or not memory.free.give_back(Taken(hand_off.slot, hand_off.generation)):
            log.error("stale_answer", slot=hand_off.slot, generation=hand_off.generation)
            return
        waiting = memory.waiting.pop(hand_off.slot)
        if not waiting.future.done():  # somebody still waits
            # Copied now: the slot may be taken again before the request's own task runs.
            header = memory.slots.header(hand_off.slot, hand_off.length)
            values = (memory.slots.layout.map_values,)
            anomaly_map = memory.slots.anomaly_map(hand_off.slot, values).copy() if waiting.wants_map else None
            waiting.future.set_result(Answered(Kind(hand_off.kind), header, anomaly_map))
        self._drop_if_unused(memory)

    def _on_end(self) -> None:
        self._fail_all()
        self._tell_end(self)

    def _fail_all(self) -> None:
        memories, self._memories, self._memory = self._memories, {}, None
        for one in [one for memory in memories.values() for one in memory.waiting.values()]:
            if not one.future.done():
                one.future.set_exception(EngineLostError(_ENDED))
        for call in self._calls.values():
            if not call.done():
                call.set_exception(EngineLostError(_ENDED))
