"""The wall clock jumps under a running service; neither deadlines nor ids nor keys may depend on it."""

from pathlib import Path

import pytest
from controllers import Controllers, against_records, contradictions
from stations import Station

JUMPS = ("+1d", "-30d", "+10y", "-3600", "+0")


def faketime_library() -> Path | None:
    candidates = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return next(candidates, None)


@pytest.mark.parametrize("workers", [1, 2])
def test_wall_clock_that_jumps(station: Station, long: bool, seed: int, workers: int) -> None:
    library = faketime_library()
    if library is None:
        (pytest.fail if long else pytest.skip)("libfaketime is not installed; Debian: apt-get install libfaketime")
    if workers > 1 and not long:
        pytest.skip("part of `make test-faults`")
    clock = station.folder / "clock"
    station.environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    station.settings["workers"] = workers
    clock.write_text("+0")
    station.start()
    with Controllers(station, 3, seed) as controllers:
        for jump in JUMPS if long else JUMPS[:2]:
            set_clock(clock, jump)
            controllers.wait_for(30 if long else 10)
    assert set(controllers.outcomes) <= {"verdict", "replayed", "given up"}, controllers.outcomes
    lost, contradicted, duplicates = against_records(station, controllers.answers)
    assert (lost, contradicted + contradictions(controllers.answers), duplicates) == ([], [], [])
    days = station.rows("SELECT DISTINCT substr(created, 1, 10) FROM inspections")
    assert len(days) > 1, "the clock never jumped"
    listed = station.get("/v1/inspections")
    assert listed.status_code == 200
    assert station.ready()
    assert station.stop() == 0


def set_clock(clock: Path, jump: str) -> None:
    half = clock.with_suffix(".part")
    half.write_text(jump)
    half.rename(clock)
