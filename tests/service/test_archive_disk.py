"""Disks that are full or fail pause the archive, once and aloud, and it goes on by itself."""

import errno
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archiving import MAP_FILE_BYTES, ids, keepsake, kept_ids, opened, room
from serving import DEFECTIVE, GOOD, Line, running, wait_until
from structlog.testing import capture_logs

from service.archive.shelf import Shelf
from service.runtimes.fake import FakeRuntime
from service.settings import Settings

EACH = 10_000 + MAP_FILE_BYTES


class Disk:
    """What `os.fsync` says of the disk, and how often it was asked."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.syncs = 0

    def fsync(self, _: int) -> None:
        self.syncs += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    one = Disk()
    monkeypatch.setattr(os, "fsync", one.fsync)
    return one


def of_level(logs: list, level: str) -> list[str]:
    return [entry["event"] for entry in logs if entry["log_level"] == level]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES])
def test_failing_disk_pauses_and_what_waits_is_kept_when_it_is_back(tmp_path: Path, disk: Disk, error: int) -> None:
    drops: Counter[str] = Counter()
    all_ids = ids(20)
    with capture_logs() as logs, opened(tmp_path, on_drop=lambda reason: drops.update([reason])) as archive:
        disk.error = error
        for one in all_ids:
            archive.keep(keepsake(one))
        wait_until(lambda: disk.syncs >= 5)
        assert archive.paused
        assert all(map(archive.has, all_ids))  # in memory
        assert room(tmp_path) == archive.bytes == 0
        disk.error = None
        wait_until(lambda: not archive.paused)
        wait_until(lambda: archive.bytes == 20 * EACH)
    assert kept_ids(tmp_path) == all_ids
    assert drops == {}
    assert of_level(logs, "critical") == ["archive_paused"]
    assert of_level(logs, "warning") == ["archive_resumed"]


def test_one_image_is_tried_at_a_time(tmp_path: Path, disk: Disk) -> None:
    disk.error = errno.ENOSPC
    with opened(tmp_path, retry_s=3600) as archive:
        for one in ids(20):
            archive.keep(keepsake(one))
        wait_until(lambda: archive.paused)
        for one in ids(40)[20:]:
            archive.keep(keepsake(one))
        assert disk.syncs == 1


def test_memory_is_bounded_while_paused_and_passes_go_first(tmp_path: Path, disk: Disk) -> None:
    drops: Counter[str] = Counter()
    all_ids = ids(12)
    size = keepsake(all_ids[0]).waiting_bytes
    disk.error = errno.EROFS
    with (
        capture_logs() as logs,
        opened(tmp_path, queue_bytes=4 * size, on_drop=lambda reason: drops.update([reason])) as archive,
    ):
        archive.keep(keepsake(all_ids[0]))
        wait_until(lambda: archive.paused)
        for one in all_ids[1:6]:
            archive.keep(keepsake(one, "pass"))
        assert drops == {"paused": 2}
        for one in all_ids[6:]:
            archive.keep(keepsake(one))
        assert drops == {"paused": 8}
        assert [one for one in all_ids if archive.has(one)] == [all_ids[0], *all_ids[6:9]]
        disk.error = None
        wait_until(lambda: archive.bytes == 4 * EACH)
    assert of_level(logs, "critical") == ["archive_paused"]
    assert of_level(logs, "warning") == ["archive_resumed"]


def test_memory_that_is_really_taken_is_bounded(tmp_path: Path, disk: Disk) -> None:
    """Images outpace the disk: few of a batch are kept, and must not keep the maps of all of it."""
    disk.error = errno.ENOSPC
    limit, size, batch = 2_000_000, 10_000, (32, 32, 32)
    with opened(tmp_path, queue_bytes=limit, retry_s=3600) as archive:
        archive.keep(keepsake(ids(1)[0]))
        wait_until(lambda: archive.paused)
        tracemalloc.start()
        for one in ids(1000)[1:]:
            maps = np.ones(batch, np.float32)
            archive.keep(replace(keepsake(one, size=size), anomaly_map=maps[7]))
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        kept = sum(map(archive.has, ids(1000)))
        assert kept == limit // (size + maps[0].nbytes)
        assert kept * (size + maps[0].nbytes) <= taken <= 1.2 * limit


def test_disk_that_fails_in_the_midst_leaves_nothing_half(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = ids(2)
    with opened(tmp_path, retry_s=3600) as archive:
        archive.keep(keepsake(one))
        wait_until(lambda: archive.bytes == EACH)
        written = disk.syncs
        fails_later = disk.fsync

        def fsync(descriptor: int) -> None:
            if disk.syncs == written + 2:  # the map is written, its directory too
                disk.error = errno.ENOSPC
            fails_later(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        archive.keep(keepsake(two))
        wait_until(lambda: archive.paused)
        assert kept_ids(tmp_path) == [one]
        assert archive.bytes == room(tmp_path)


def test_close_gives_up_what_the_disk_does_not_take(tmp_path: Path, disk: Disk) -> None:
    drops: Counter[str] = Counter()
    disk.error = errno.ENOSPC
    with opened(tmp_path, retry_s=3600, on_drop=lambda reason: drops.update([reason])) as archive:
        for one in ids(5):
            archive.keep(keepsake(one))
        wait_until(lambda: archive.paused)
    assert drops == {"paused": 5}
    assert disk.syncs == 2  # the first, and the last try


def test_close_tries_again_and_keeps_all(tmp_path: Path, disk: Disk) -> None:
    all_ids = ids(5)
    disk.error = errno.ENOSPC
    with opened(tmp_path, retry_s=3600) as archive:
        for one in all_ids:
            archive.keep(keepsake(one))
        wait_until(lambda: archive.paused)
        disk.error = None
    assert kept_ids(tmp_path) == all_ids


def test_reserve_of_the_disk_is_not_touched(tmp_path: Path) -> None:
    all_ids = ids(5)
    disk_bytes = 1_000_000

    def free(_: Path) -> int:
        return disk_bytes - room(tmp_path)

    reserve = disk_bytes - 3 * EACH
    with capture_logs() as logs, opened(tmp_path, min_free_bytes=reserve, free_bytes=free) as archive:
        for one in all_ids:
            archive.keep(keepsake(one))
        wait_until(lambda: archive.paused)
        assert kept_ids(tmp_path) == all_ids[:3]
        disk_bytes += 10**6
        wait_until(lambda: archive.bytes == 5 * EACH)
        wait_until(lambda: not archive.paused)
    assert kept_ids(tmp_path) == all_ids
    [pause] = [entry for entry in logs if entry["log_level"] == "critical"]
    assert "archive_min_free_bytes" in pause["reason"]


def test_too_old_are_deleted_while_paused(tmp_path: Path) -> None:
    old = ids(1)
    with opened(tmp_path) as archive:
        archive.keep(keepsake(old[0]))
    with opened(tmp_path, keep_days=1, min_free_bytes=1, free_bytes=lambda _: 0, retry_s=3600) as archive:
        archive.keep(keepsake(ids(1, 4_000_000_000.0)[0]))
        wait_until(lambda: not archive.has(old[0]))
        assert archive.paused


def test_removal_that_fails_pauses_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = ids(3)
    with capture_logs() as logs, opened(tmp_path, max_bytes=2 * EACH) as archive:
        for one in (first, second):
            archive.keep(keepsake(one))
        wait_until(lambda: archive.bytes == 2 * EACH)
        with monkeypatch.context() as patch:

            def refused(_: Shelf) -> None:
                raise PermissionError(errno.EPERM, "operation not permitted")

            patch.setattr(Shelf, "remove_oldest", refused)
            archive.keep(keepsake(third))
            wait_until(lambda: archive.paused)
        wait_until(lambda: kept_ids(tmp_path) == [second, third])
    assert of_level(logs, "critical") == ["archive_paused"]


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """A limit of the system itself, in a process of its own: large images wait, small ones are kept meanwhile."""
    program = """
import resource, sys, time
from pathlib import Path
from archiving import MAP_FILE_BYTES, ids, keepsake, opened
large, *small = ids(4)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
with opened(Path(sys.argv[1])) as archive:
    archive.keep(keepsake(large, size=10_000))
    while not archive.paused:
        time.sleep(0.005)
    for one in small:
        archive.keep(keepsake(one, size=500))
    while archive.bytes < 3 * (500 + MAP_FILE_BYTES):
        time.sleep(0.005)
    assert archive.has(large)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert kept_ids(tmp_path) == ids(4)


def metric(line: Line, name: str) -> float:
    lines = line.http.get("/metrics").text.splitlines()
    [value] = [float(line.split()[1]) for line in lines if line.startswith(f"{name} ")]
    return value


@pytest.fixture
def short_of_room(settings: Settings, runtime: FakeRuntime) -> Iterator[Line]:
    with running(settings.model_copy(update={"archive_min_free_bytes": 2**62}), runtime) as line:
        yield line


def test_inspections_and_records_go_on_while_paused(short_of_room: Line) -> None:
    line = short_of_room
    assert metric(line, "inspect_archive_paused") == 0
    replies = [line.http.post("/v1/inspections", content=image).json() for image in (GOOD, DEFECTIVE, GOOD)]
    assert [reply["verdict"] for reply in replies] == ["pass", "fail", "pass"]
    wait_until(lambda: metric(line, "inspect_archive_paused") == 1)
    for reply in replies:
        assert line.http.get(f"/v1/inspections/{reply['id']}").json()["verdict"] == reply["verdict"]
    assert line.http.get("/readyz").status_code == 200
    assert metric(line, "inspect_archive_bytes") == 0
