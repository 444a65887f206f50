"""Disks that are full, that turn read-only, and a database that someone else has locked."""

import resource
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from stations import Station, wait_until

MIB = 1024 * 1024


@contextmanager
def mounted(folder: Path, long: bool, *options: str) -> Iterator[None]:
    """A small disk on a folder, for whoever may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        refuse = pytest.fail if long else pytest.skip
        refuse(f"only root can mount a small disk, and this is not: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def memory_disk(folder: Path, long: bool, *, mib: int) -> Any:
    return mounted(folder, long, "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs")


def fill(folder: Path) -> Path:
    """Leave no room at all on a folder's disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return filler


def refused_unrecorded(response: httpx.Response) -> None:
    document = response.json()
    assert (response.status_code, document["code"], document["result"]) == (500, 50, 3), document
    assert "record" in document["detail"]


def check_answers(station: Station, answers: list[dict[str, Any]]) -> None:
    """Every verdict that was answered is on record, once."""
    recorded = {row[0]: row[1] for row in station.rows("SELECT id, verdict FROM inspections")}
    assert answers
    assert [answer for answer in answers if recorded.get(answer["id"]) != answer["verdict"]] == []
    assert station.rows("PRAGMA integrity_check") == [("ok",)]


def test_full_disk(station: Station, long: bool) -> None:
    good = station.samples[0]
    with memory_disk(station.var, long, mib=4):
        station.settings["archive_max_bytes"] = 0
        station.start()
        answers = [station.post(good, station="s", serial="A", trigger=1).json()]
        filler = fill(station.var)
        refusals = 0
        for trigger in range(2, 200):
            response = station.post(good, station="s", serial="A", trigger=trigger)
            if response.status_code == 200:  # the log of the database had room left
                answers.append(response.json())
                continue
            refused_unrecorded(response)
            refusals += 1
            if refusals == 5:
                break
        assert refusals == 5
        assert station.get("/livez").status_code == 200
        filler.unlink()
        # The same part again: there is room now, and it is inspected afresh.
        answers.append(station.post(good, station="s", serial="A", trigger=trigger).json())
        assert not answers[-1]["replayed"]
        check_answers(station, answers)
        assert station.stop() == 0


def test_full_archive_stops_keeping_and_nothing_else(station: Station, long: bool) -> None:
    with memory_disk(station.var / "archive", long, mib=1):
        station.start()
        fill(station.var / "archive")
        answers = [station.post(image).json() for image in station.samples]
        assert {answer["verdict"] for answer in answers} == {"pass", "fail"}
        wait_until(lambda: station.metric("inspect_archive_paused") == 1)
        check_answers(station, answers)
        assert station.stop() == 0


@pytest.mark.parametrize(
    "piped",
    [
        pytest.param(True, id="database"),
        pytest.param(False, id="log and database"),
    ],
)
def test_files_that_may_not_grow(station: Station, piped: bool) -> None:
    """What a full disk is to the database, and to a log beside it, for those who cannot mount one."""
    good = station.samples[0]
    station.settings["archive_max_bytes"] = 0
    station.piped = piped
    station.start()
    answers = [station.post(good).json()]
    resource.prlimit(station.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    for _ in range(2):
        refused_unrecorded(station.post(good, patience_s=6))
    assert station.get("/livez").status_code == 200
    resource.prlimit(station.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers.append(station.post(good).json())
    check_answers(station, answers)
    assert station.stop() == 0


def test_disk_that_turns_read_only(station: Station, long: bool) -> None:
    """As Linux does with a disk that fails."""
    good = station.samples[0]
    image = station.folder / "disk"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["/sbin/mkfs.ext4", "-q", str(image)], check=True)
    with mounted(station.var, long, "-o", "loop", str(image)):
        station.start()
        answers = [station.post(good).json()]
        subprocess.run(["mount", "-o", "remount,abort", str(station.var)], check=True)
        refused_unrecorded(station.post(good))
        refused_unrecorded(station.post(good))
        assert station.get("/livez").status_code == 200
        read = station.get(f"/v1/inspections/{answers[0]['id']}")
        assert (read.status_code, read.json()["verdict"]) == (200, answers[0]["verdict"])
        station.stop()


def test_start_on_a_read_only_disk(station: Station, long: bool) -> None:
    with mounted(station.var, long, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        assert station.launch().wait(60) == 4
        assert "error: " in station.tail()
        assert str(station.var) in station.tail()


def test_database_that_someone_else_has_locked(station: Station, long: bool) -> None:
    good = station.samples[0]
    station.start()
    answers = [station.post(good).json()]
    with closing(sqlite3.connect(station.var / "records.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(station.post, good, station="s", serial="A", trigger=n) for n in range(4)]
            # Reading goes on meanwhile.
            assert station.get(f"/v1/inspections/{answers[0]['id']}").status_code == 200
            assert station.ready()
            if long:  # longer than the database is waited for
                time.sleep(12)
            else:
                time.sleep(0.5)
            other.execute("ROLLBACK")
            responses = [request.result() for request in waiting]
    for response in responses:
        if response.status_code != 200:
            assert long
            refused_unrecorded(response)
    again = [station.post(good, station="s", serial="A", trigger=n).json() for n in range(4)]
    answers += [response.json() for response in responses if response.status_code == 200] + again
    assert {answer["result"] for answer in again} == {1}
    check_answers(station, answers)
    assert station.rows("SELECT count(*) FROM inspections WHERE request_key IS NOT NULL") == [(4,)]
    assert station.stop() == 0


def test_deadline_holds_while_the_database_is_locked(station: Station) -> None:
    """What waits for its record is answered in time that it is too late; a retry gets the verdict."""
    good = station.samples[0]
    station.start()
    with closing(sqlite3.connect(station.var / "records.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        response = station.post(good, station="s", serial="A", trigger=1, deadline_ms=300)
        other.execute("ROLLBACK")
    assert (response.status_code, response.json()["code"], response.json()["result"]) == (504, 41, 0)
    again = station.post(good, station="s", serial="A", trigger=1).json()
    assert (again["result"], again["replayed"]) == (1, True)
    check_answers(station, [again])
