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
from service.engine.messages import Kind, Welcome
from service.engine.slots import HEADER_BYTES, FreeSlots, HeaderTooLargeError, SlotMemory, SlotsFullError, Taken

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
    """A copy, where it was asked for; it means something only if the reply says so."""


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


class Session:
    """Hands frames over and takes answers back.

    Args:
        sock: The worker's end of the connection, owned from here on.
        on_welcome: Told when the engine is there.
        on_end: Told when it has gone; whoever waits has been told already.
        on_recorded: Told, after `listen`, when inspections were recorded.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_welcome: Callable[["Session", Welcome], None],
        on_end: Callable[["Session"], None],
        on_recorded: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_welcome = on_welcome
        self._tell_end = on_end
        self._on_recorded = on_recorded
        self._memory: SlotMemory | None = None
        self._free = FreeSlots(0)
        self._waiting: dict[int, _Waiting] = {}
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
        memory = self._memory
        if memory is None or self._channel.closed:
            raise EngineLostError(_ENDED)
        if len(header) > HEADER_BYTES:
            raise HeaderTooLargeError(f"the request's fields take {len(header)} bytes, more than {HEADER_BYTES}")
        descriptor = None if image is None else await self._as_file(image)
        try:
            taken = self._free.take()
        except SlotsFullError:
            if descriptor is not None:
                os.close(descriptor)
            raise
        waiting = _Waiting(taken, asyncio.get_running_loop().create_future(), wants_map)
        self._waiting[taken.slot] = waiting
        memory.put_header(taken.slot, header)
        if frame is not None:
            memory.frame(taken.slot)[...] = frame
        self._channel.hand_off(HandOff(kind, taken.slot, taken.generation, len(header), descriptor))
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if self._waiting.get(taken.slot) is waiting:
                self._channel.hand_off(HandOff(Kind.WITHDRAW, taken.slot, taken.generation, 0))
            raise

    async def _as_file(self, image: bytes) -> int:
        if len(image) < blobs.LARGE:
            return blobs.put(image)
        return await asyncio.to_thread(blobs.put, image)

    async def call(self, what: str, inspection_id: str | None = None) -> Blob:
        """Ask for something that needs no slot.

        Raises:
            EngineLostError: The engine ended before it answered, or could not.
        """
        if self._channel.closed:
            raise EngineLostError(_ENDED)
        self._last_call += 1
        number = self._last_call
        future: asyncio.Future[Blob] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self._channel.note({"call": number, "what": what, "id": inspection_id})
        try:
            blob = await future
        finally:
            del self._calls[number]
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

    def give_up(self, error: Exception) -> None:
        """End the wait of everyone, with `error`."""
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(error)
                self._channel.hand_off(HandOff(Kind.WITHDRAW, waiting.taken.slot, waiting.taken.generation, 0))

    def close(self) -> None:
        """Leave; everyone who waits is told."""
        self._channel.close()
        self._fail_all()

    def _on_note(self, note: dict[str, Any], descriptors: list[int]) -> None:
        if "welcome" in note:
            welcome = Welcome.model_validate(note["welcome"])
            self._memory, descriptor = SlotMemory.create(welcome.layout)
            self._free = FreeSlots(welcome.layout.count)
            self._channel.note({"slots": welcome.layout.count}, [descriptor])
            self._on_welcome(self, welcome)
        elif "recorded" in note:
            self._on_recorded()
        elif "answer" in note:
            data = blobs.take(descriptors[0]) if descriptors else None
            future = self._calls.get(note["answer"])
            if future is not None and not future.done():
                future.set_result(Blob(note, data))

    def _on_batch(self, batch: Sequence[HandOff]) -> None:
        for hand_off in batch:
            self._take_back(hand_off)

    def _take_back(self, hand_off: HandOff) -> None:
        memory = self._memory
        assert memory is not None
        if not self._free.give_back(Taken(hand_off.slot, hand_off.generation)):
            log.error("stale_answer", slot=hand_off.slot, generation=hand_off.generation)
            return
        waiting = self._waiting.pop(hand_off.slot)
        if waiting.future.done():  # nobody waits any more
            return
        # Copied now: the slot may be taken again before the request's own task runs.
        header = memory.header(hand_off.slot, hand_off.length)
        anomaly_map = memory.anomaly_map(hand_off.slot).copy() if waiting.wants_map else None
        waiting.future.set_result(Answered(Kind(hand_off.kind), header, anomaly_map))

    def _on_end(self) -> None:
        self._fail_all()
        self._tell_end(self)

    def _fail_all(self) -> None:
        self._memory = None
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.future.done():
                one.future.set_exception(EngineLostError(_ENDED))
        for call in self._calls.values():
            if not call.done():
                call.set_exception(EngineLostError(_ENDED))
