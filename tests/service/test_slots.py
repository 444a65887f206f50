import gc
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.slots import (
    HEADER_BYTES,
    FreeSlots,
    HeaderTooLargeError,
    SlotLayout,
    SlotMemory,
    SlotsFullError,
    Taken,
)

FRAME = (64, 96, 2)
MAP = (8, 12)
LAYOUT = SlotLayout(count=3, frame_bytes=64 * 96 * 2, map_values=8 * 12)


def test_both_sides_see_the_same_memory() -> None:
    worker, descriptor = SlotMemory.create(LAYOUT)
    engine = SlotMemory(LAYOUT, descriptor)
    os.close(descriptor)
    for slot in range(LAYOUT.count):
        worker.put_header(slot, bytes([slot + 1]) * HEADER_BYTES)
        worker.frame(slot, FRAME)[...] = slot + 11
        engine.anomaly_map(slot, MAP)[...] = slot + 0.5
    for slot in range(LAYOUT.count):
        assert engine.header(slot, HEADER_BYTES) == bytes([slot + 1]) * HEADER_BYTES
        assert engine.frame(slot, FRAME).shape == FRAME
        assert (engine.frame(slot, FRAME) == slot + 11).all()
        assert (worker.anomaly_map(slot, MAP) == slot + 0.5).all()


def test_slots_are_whole_pages_and_maps_are_aligned() -> None:
    memory, descriptor = SlotMemory.create(LAYOUT)
    assert os.fstat(descriptor).st_size == LAYOUT.count * LAYOUT.slot_bytes
    assert LAYOUT.slot_bytes % os.sysconf("SC_PAGE_SIZE") == 0
    assert all(memory.anomaly_map(slot, MAP).flags.aligned for slot in range(LAYOUT.count))
    os.close(descriptor)


def test_memory_has_no_name_and_goes_with_its_last_view() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:atsnet-slots")

    gc.collect()
    before = mapped()
    memory, descriptor = SlotMemory.create(LAYOUT)
    assert str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("/memfd:atsnet-slots")
    os.close(descriptor)
    view = memory.frame(1, FRAME)
    del memory
    view[...] = 7
    assert int(view.sum()) == 7 * view.size
    assert mapped() == before + 1
    del view
    assert mapped() == before


def test_header_that_does_not_fit_is_refused() -> None:
    memory, descriptor = SlotMemory.create(LAYOUT)
    os.close(descriptor)
    with pytest.raises(HeaderTooLargeError, match=f"{HEADER_BYTES + 1} bytes"):
        memory.put_header(0, b"x" * (HEADER_BYTES + 1))


def test_full_is_refused_at_once_and_what_comes_back_is_taken_again() -> None:
    free = FreeSlots(2)
    first, second = free.take(), free.take()
    assert {first.slot, second.slot} == {0, 1}
    with pytest.raises(SlotsFullError, match="all 2 slots"):
        free.take()
    assert free.give_back(first)
    again = free.take()
    assert (again.slot, again.generation) == (first.slot, first.generation + 1)


def test_the_slot_that_came_back_last_is_taken_first() -> None:
    free = FreeSlots(4)
    taken = [free.take() for _ in range(4)]
    for one in (taken[2], taken[0]):
        free.give_back(one)
    assert [free.take().slot for _ in range(2)] == [taken[0].slot, taken[2].slot]


def test_stale_answer_frees_nothing() -> None:
    free = FreeSlots(1)
    first = free.take()
    assert free.give_back(first)
    assert not free.give_back(first)
    second = free.take()
    assert not free.give_back(first)
    assert not free.give_back(Taken(second.slot, second.generation + 1))
    assert len(free) == 0
    assert free.give_back(second)


def test_generations_go_round() -> None:
    free = FreeSlots(1)
    free._generations[0] = 2**32 - 1
    taken = free.take()
    assert taken.generation == 0
    assert free.give_back(taken)


@given(st.integers(1, 5), st.lists(st.integers(0, 9), max_size=60))
def test_no_slot_has_two_owners(count: int, steps: list[int]) -> None:
    """Even numbers take, odd ones give one of the taken back; a stale one is tried each time."""
    free = FreeSlots(count)
    taken: list[Taken] = []
    stale: list[Taken] = []
    for step in steps:
        if step % 2 == 0:
            if len(taken) == count:
                with pytest.raises(SlotsFullError):
                    free.take()
                continue
            taken.append(free.take())
        elif taken:
            one = taken.pop(step % len(taken))
            assert free.give_back(one)
            stale.append(one)
        assert not any(free.give_back(one) for one in stale)
        assert len({one.slot for one in taken}) == len(taken)
        assert len(free) == count - len(taken)


@given(
    st.integers(1, 4),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 4])),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_nothing_overlaps(count: int, frame_shape: tuple[int, int, int], map_shape: tuple[int, int]) -> None:
    layout = SlotLayout(count, math.prod(frame_shape), math.prod(map_shape))
    memory, descriptor = SlotMemory.create(layout)
    os.close(descriptor)
    for slot in range(count):
        memory.put_header(slot, bytes([slot + 1]) * HEADER_BYTES)
        memory.frame(slot, frame_shape)[...] = slot + 101
        memory.anomaly_map(slot, map_shape)[...] = np.float32(slot) - 0.25
    for slot in range(count):
        assert memory.header(slot, HEADER_BYTES) == bytes([slot + 1]) * HEADER_BYTES
        assert (memory.frame(slot, frame_shape) == slot + 101).all()
        assert (memory.anomaly_map(slot, map_shape) == np.float32(slot) - 0.25).all()
