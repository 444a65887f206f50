import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.engine import blobs
from service.engine.channel import Channel, HandOff, receive_note, socket_pair


class End:
    """One end of a channel that remembers what it was told."""

    def __init__(self) -> None:
        self.batches: list[list[HandOff]] = []
        self.notes: list[tuple[dict[str, Any], list[int]]] = []
        self.ended = 0

    def options(self) -> dict[str, Any]:
        return {
            "on_batch": lambda batch: self.batches.append(list(batch)),
            "on_note": lambda note, descriptors: self.notes.append((note, descriptors)),
            "on_end": self._end,
        }

    def _end(self) -> None:
        self.ended += 1

    @property
    def hand_offs(self) -> list[HandOff]:
        return [one for batch in self.batches for one in batch]


def talk(scenario: Callable[[Channel, Channel, End], Awaitable[None]]) -> None:
    """Run a scenario between a channel that speaks and one that listens."""

    async def main() -> None:
        ours, theirs = socket_pair()
        end = End()
        speaker, listener = Channel(ours), Channel(theirs, **end.options())
        try:
            async with asyncio.timeout(60):
                await scenario(speaker, listener, end)
        finally:
            speaker.close()
            listener.close()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_what_gathers_in_one_turn_is_one_packet() -> None:
    async def scenario(speaker: Channel, _: Channel, end: End) -> None:
        for slot in range(5):
            speaker.hand_off(HandOff(1, slot, 7, 100 + slot))
        await until(lambda: end.batches)
        assert end.batches == [[HandOff(1, slot, 7, 100 + slot) for slot in range(5)]]
        speaker.hand_off(HandOff(2, 4_000_000_000, 2**32 - 1, 0))
        await until(lambda: len(end.batches) == 2)
        assert end.batches[1] == [HandOff(2, 4_000_000_000, 2**32 - 1, 0)]

    talk(scenario)


def test_order_is_kept_whatever_the_amount() -> None:
    async def scenario(speaker: Channel, _: Channel, end: End) -> None:
        for slot in range(50_000):
            speaker.hand_off(HandOff(1, slot, 0, 0))
        speaker.note({"last": True})
        await until(lambda: end.notes)
        assert [one.slot for one in end.hand_offs] == list(range(50_000))

    talk(scenario)


def test_files_come_with_their_own_hand_off_and_are_closed_here() -> None:
    before = open_descriptors()

    async def scenario(speaker: Channel, _: Channel, end: End) -> None:
        contents = [os.urandom(n * 1000) if n % 3 else None for n in range(600)]
        for slot, data in enumerate(contents):
            speaker.hand_off(HandOff(1, slot, 0, 0, None if data is None else blobs.put(data)))
        await until(lambda: len(end.hand_offs) == 600)
        received = [None if one.descriptor is None else blobs.take(one.descriptor) for one in end.hand_offs]
        assert received == contents

    talk(scenario)
    assert open_descriptors() == before


def test_notes_and_hand_offs_keep_their_order() -> None:
    told: list[object] = []

    async def main() -> None:
        ours, theirs = socket_pair()
        speaker = Channel(ours)
        listener = Channel(theirs, on_batch=lambda batch: told.extend(batch), on_note=lambda note, _: told.append(note))
        speaker.hand_off(HandOff(1, 0, 0, 0))
        speaker.note({"n": 1})
        speaker.hand_off(HandOff(1, 1, 0, 0))
        await until(lambda: len(told) == 3)
        speaker.close()
        listener.close()

    asyncio.run(main())
    assert told == [HandOff(1, 0, 0, 0), {"n": 1}, HandOff(1, 1, 0, 0)]


def test_the_end_is_told_once_and_after_what_was_said() -> None:
    async def scenario(speaker: Channel, listener: Channel, end: End) -> None:
        speaker.hand_off(HandOff(1, 0, 0, 0))
        speaker.close()
        await until(lambda: end.ended)
        assert end.hand_offs == [HandOff(1, 0, 0, 0)]
        assert listener.closed
        listener.note({"into": "the void"})
        listener.hand_off(HandOff(1, 0, 0, 0, blobs.put(b"x")))
        await asyncio.sleep(0.01)
        assert end.ended == 1

    talk(scenario)


def test_sending_to_the_dead_is_their_end() -> None:
    async def main() -> None:
        ours, theirs = socket_pair()
        end = End()
        channel = Channel(ours, **end.options())
        theirs.close()
        channel.note({"n": 1}, [blobs.put(b"x")])
        await until(lambda: end.ended)
        assert channel.closed

    before = open_descriptors()
    asyncio.run(main())
    assert open_descriptors() == before


def test_first_note_before_there_is_a_loop() -> None:
    ours, theirs = socket_pair()

    async def speak() -> None:
        channel = Channel(ours)
        channel.note({"settings": {"port": 1}}, [blobs.put(b"hello")])
        channel.close()

    asyncio.run(speak())
    note, descriptors = receive_note(theirs)
    assert (note, [blobs.take(one) for one in descriptors]) == ({"settings": {"port": 1}}, [b"hello"])
    with pytest.raises(EOFError):
        receive_note(theirs)
    theirs.close()


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_blobs_come_back_whole(size: int) -> None:
    data = os.urandom(size)
    assert blobs.take(blobs.put(data)) == data
