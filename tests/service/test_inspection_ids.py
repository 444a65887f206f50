"""Ids only grow, whatever the clock does: the events rely on it."""

import time

import pytest
from listening import listening
from serving import GOOD, running
from ulid import ULID

from service.records import inspection as ids
from service.records.inspection import continue_after, new_id
from service.runtimes.fake import FakeRuntime
from service.settings import Settings


def test_ids_only_grow_even_if_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(ids, "_last_id", 0)
    monkeypatch.setattr(ids.time, "time_ns", lambda: now)
    made = [new_id() for _ in range(1000)]
    now -= 3_600_000_000_000
    made += [new_id() for _ in range(1000)]
    assert made == sorted(set(made))
    now += 2 * 3_600_000_000_000
    assert new_id() > made[-1]
    earlier = str(ULID.from_timestamp(now / 1e9 + 600))
    continue_after(earlier)
    assert new_id() > earlier
    # A clock that was years ahead does not rule the ids for years.
    wrong = str(ULID.from_timestamp(now / 1e9 + 1e8))
    continue_after(wrong)
    assert new_id() < wrong


def test_ids_go_on_after_those_of_an_earlier_process(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(settings, FakeRuntime()) as line:
        old = line.post(GOOD).json()["id"]
    monkeypatch.setattr(ids, "_last_id", 0)
    set_back = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(ids.time, "time_ns", lambda: set_back)
    with running(settings, FakeRuntime()) as line, listening(line, old) as listener:
        new = line.post(GOOD).json()["id"]
        assert new > old
        assert listener.next()["id"] == new
