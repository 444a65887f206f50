import itertools
from collections import Counter
from typing import Any

import pytest

from cli.simulated_line import Conveyor, Part, Specimen, Specimens, new_run

SPECIMENS = Specimens(
    [Specimen(b"good %d" % number, None) for number in range(3)],
    [Specimen(b"bad %d" % number, "crack") for number in range(3)],
)


def brought(number: int, **options: Any) -> list[Part]:
    conveyor = Conveyor(**{"rate": 10.0, **options})
    return list(itertools.islice(conveyor.parts(SPECIMENS), number))


def test_the_same_seed_brings_the_same_parts() -> None:
    options = {"stations": 3, "burst": 4, "share": 0.3, "repeats": 0.3}
    assert brought(200, seed=1, **options) == brought(200, seed=1, **options)
    assert [part.specimen for part in brought(200, seed=1)] != [part.specimen for part in brought(200, seed=2)]


def test_no_two_parts_are_taken_for_the_same() -> None:
    parts = brought(300, stations=3) + brought(300, stations=3, run=new_run())
    assert len({(part.station, part.serial, part.trigger) for part in parts}) == 600
    assert new_run() != new_run()


def test_stations_take_turns_and_count_their_own() -> None:
    parts = brought(7, stations=3)
    assert [(part.station, part.trigger) for part in parts] == [
        ("sim-1", 1), ("sim-2", 1), ("sim-3", 1), ("sim-1", 2), ("sim-2", 2), ("sim-3", 2), ("sim-1", 3),
    ]  # fmt: skip


def test_lots_follow_each_other() -> None:
    lots = [part.lot for part in brought(7, lot_size=3, run="R")]
    assert lots == ["R-L001"] * 3 + ["R-L002"] * 3 + ["R-L003"]


def test_steady_belt() -> None:
    assert [part.due_s for part in brought(4, rate=4.0)] == [0.0, 0.25, 0.5, 0.75]


def test_stop_and_go_keeps_the_rate() -> None:
    due = [part.due_s for part in brought(12, rate=4.0, burst=4)]
    assert due[::4] == [0.0, 1.0, 2.0]
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    assert gaps == pytest.approx(([0.025] * 3 + [0.925]) * 2 + [0.025] * 3)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shares(share: float) -> None:
    parts = brought(4000, share=share, repeats=share)
    assert sum(part.specimen.defect is not None for part in parts) / 4000 == pytest.approx(share, abs=0.03)
    times = Counter(part.repeat for part in parts)
    assert times["meanwhile"] / 4000 == pytest.approx(share / 2, abs=0.03)
    assert times["afterwards"] / 4000 == pytest.approx(share / 2, abs=0.03)


def test_all_pictures_are_shown() -> None:
    assert len({part.specimen for part in brought(200, share=0.5)}) == len(SPECIMENS)
