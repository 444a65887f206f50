import errno
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from archiving import MAP, MAP_FILE_BYTES, START, files, ids, keepsake, kept_ids, opened, room
from serving import wait_until
from structlog.testing import capture_logs
from ulid import ULID

from service.archive import files as archive_files
from service.archive import shelf
from service.archive.keepsake import is_sampled
from service.picture import ImageFile
from service.records.inspection import new_id
from service.reply import VerdictWord

EACH = 10_000 + MAP_FILE_BYTES


@pytest.mark.parametrize("verdict", ["pass", "review", "fail"])
def test_kept_at_once_and_after_a_restart(tmp_path: Path, verdict: VerdictWord) -> None:
    one = keepsake(new_id(), verdict)
    with opened(tmp_path) as archive:
        archive.keep(one)
        assert archive.image(one.id) == one.image
    with opened(tmp_path) as archive:
        assert archive.has(one.id)
        assert archive.image(one.id) == one.image
        kept = archive.anomaly_map(one.id)
        assert kept is not None
        np.testing.assert_allclose(kept, MAP, rtol=2**-10, atol=1e-6)


def test_error_is_kept_without_a_map(tmp_path: Path) -> None:
    one = keepsake(new_id(), "not_evaluated")
    with opened(tmp_path) as archive:
        archive.keep(one)
        assert archive.anomaly_map(one.id) is None
    with opened(tmp_path) as archive:
        assert archive.image(one.id) == one.image
        assert archive.anomaly_map(one.id) is None
    assert len(files(tmp_path)) == 1


def test_files_lie_under_the_day_of_their_id(tmp_path: Path) -> None:
    one, two = ids(2)
    with opened(tmp_path) as archive:
        archive.keep(keepsake(one))
        archive.keep(keepsake(two, "pass"))
    day = "2023/11/14"
    assert [path.relative_to(tmp_path).as_posix() for path in files(tmp_path)] == [
        f"{day}/{one}.npy",
        f"{day}/{one}.png",
        f"passes/{day}/{two}.npy",
        f"passes/{day}/{two}.png",
    ]


def test_share_of_the_passes_and_all_others_are_kept(tmp_path: Path) -> None:
    all_ids = ids(200)
    verdicts: list[VerdictWord] = ["review", "fail", "not_evaluated"]
    with opened(tmp_path, pass_share=0.25) as archive:
        for n, one in enumerate(all_ids):
            archive.keep(keepsake(one, verdicts[n % 4 - 1] if n % 4 else "pass", size=100))
    kept = kept_ids(tmp_path)
    passes = all_ids[::4]
    assert [one for one in all_ids if one not in passes and one not in kept] == []
    assert [one for one in passes if one in kept] == [one for one in passes if is_sampled(one, 0.25)]


def test_sample_has_the_share_that_was_asked_for_and_grows_with_it() -> None:
    some = ids(2000)
    # Six standard deviations of a binomial distribution.
    assert sum(is_sampled(one, 0.1) for one in some) == pytest.approx(200, abs=80)
    assert {one for one in some if is_sampled(one, 0.1)} <= {one for one in some if is_sampled(one, 0.3)}
    assert not any(is_sampled(one, 0.0) for one in some)
    assert all(is_sampled(one, 1.0) for one in some)


def test_oldest_make_room(tmp_path: Path) -> None:
    all_ids = ids(10)
    with opened(tmp_path, max_bytes=50_000) as archive:
        for one in all_ids:
            archive.keep(keepsake(one))
        wait_until(lambda: not archive.has(all_ids[5]))
    assert kept_ids(tmp_path) == all_ids[6:]
    assert room(tmp_path) <= 50_000
    with opened(tmp_path, max_bytes=50_000) as archive:
        wait_until(lambda: archive.bytes == room(tmp_path))
        archive.keep(keepsake(new_id()))
        wait_until(lambda: not archive.has(all_ids[6]))
        wait_until(lambda: archive.anomaly_map(all_ids[6]) is None)
        assert archive.image(all_ids[6]) is None


def test_passes_make_room_before_older_rejects(tmp_path: Path) -> None:
    all_ids = ids(8)
    rejects, passes, more = all_ids[:2], all_ids[2:4], all_ids[4:]
    with opened(tmp_path, max_bytes=4 * EACH) as archive:
        for one in rejects:
            archive.keep(keepsake(one))
        for one in passes:
            archive.keep(keepsake(one, "pass"))
        wait_until(lambda: archive.bytes == 4 * EACH)
        for one, left in zip(more, [[*rejects, passes[1]], rejects, rejects[1:], []], strict=True):
            archive.keep(keepsake(one))
            wait_until(lambda left=left: [old for old in all_ids[:4] if archive.has(old)] == left)
    assert kept_ids(tmp_path) == more


def test_pass_takes_no_room_of_rejects(tmp_path: Path) -> None:
    drops: Counter[str] = Counter()
    *rejects, passed = ids(4)
    with opened(tmp_path, max_bytes=3 * EACH, on_drop=lambda reason: drops.update([reason])) as archive:
        for one in rejects:
            archive.keep(keepsake(one))
        wait_until(lambda: archive.bytes == 3 * EACH)
        archive.keep(keepsake(passed, "pass"))
    assert drops == {"no_room": 1}
    assert kept_ids(tmp_path) == rejects


def test_less_room_than_before_is_freed_without_any_newcomer(tmp_path: Path) -> None:
    all_ids = ids(200)
    with opened(tmp_path) as archive:
        for one in all_ids:
            archive.keep(keepsake(one, size=100))
    each = room(tmp_path) // 200
    with opened(tmp_path, max_bytes=10 * each) as archive:
        wait_until(lambda: not archive.has(all_ids[-11]))
    assert archive.bytes == room(tmp_path) == 10 * each
    assert kept_ids(tmp_path) == all_ids[-10:]


def test_too_old_are_deleted_and_younger_ones_stay(tmp_path: Path) -> None:
    old, young = ids(150), [new_id(), new_id()]
    with opened(tmp_path) as archive:
        for n, one in enumerate(old):
            archive.keep(keepsake(one, "pass" if n % 2 else "fail", size=100))
        archive.keep(keepsake(young[0]))
        archive.keep(keepsake(young[1], "pass"))
    with opened(tmp_path, keep_days=1) as archive:
        wait_until(lambda: not any(map(archive.has, old)))
        wait_until(lambda: archive.bytes == 2 * EACH)
    assert kept_ids(tmp_path) == young
    assert not (tmp_path / "2023").exists()


def test_days_that_were_emptied_are_removed(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=15_000) as archive:
        archive.keep(keepsake(str(ULID.from_timestamp(1_600_000_000.0))))
        wait_until(lambda: archive.bytes > 0)
        archive.keep(keepsake(ids(1)[0]))
        wait_until(lambda: not (tmp_path / "2020/09/13").exists() or not any((tmp_path / "2020/09/13").iterdir()))
        archive.keep(keepsake(ids(2)[1]))
        wait_until(lambda: [path.name for path in tmp_path.iterdir()] == ["2023"])


def test_id_of_a_clock_that_was_set_back_is_the_oldest(tmp_path: Path) -> None:
    later, earlier = ids(3), ids(1, START - 10 * 86_400)[0]
    with opened(tmp_path, max_bytes=2 * EACH) as archive:
        for one in later:  # the last one makes the archive look for the oldest
            archive.keep(keepsake(one))
        wait_until(lambda: not archive.has(later[0]))
        archive.keep(keepsake(earlier))
        wait_until(lambda: not archive.has(later[1]))
        archive.keep(keepsake(new := new_id()))
        wait_until(lambda: not archive.has(earlier))
    assert kept_ids(tmp_path) == [later[2], new]


def test_image_larger_than_the_archive_is_dropped_and_counted(tmp_path: Path) -> None:
    drops: Counter[str] = Counter()
    with opened(tmp_path, max_bytes=15_000, on_drop=lambda reason: drops.update([reason])) as archive:
        archive.keep(keepsake(new_id(), size=20_000))
    assert drops == {"too_large": 1}
    assert files(tmp_path) == []


def test_full_queue_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drops: Counter[str] = Counter()
    go_on, original = threading.Event(), ImageFile.as_file

    def slow(file: ImageFile) -> ImageFile:
        assert go_on.wait(30)
        return original(file)

    monkeypatch.setattr(ImageFile, "as_file", slow)
    all_ids = ids(5)
    with opened(tmp_path, queue_bytes=30_000, on_drop=lambda reason: drops.update([reason])) as archive:
        for one in all_ids:
            archive.keep(keepsake(one))
        assert drops == {"queue_full": 3}
        go_on.set()
    assert kept_ids(tmp_path) == all_ids[:2]


def test_failure_of_one_image_is_counted_and_the_next_is_kept(tmp_path: Path) -> None:
    drops: Counter[str] = Counter()
    first, second = str(ULID.from_timestamp(1_600_000_000.0)), ids(1)[0]
    (tmp_path / "2020").write_text("in the way of the directory")
    with opened(tmp_path, on_drop=lambda reason: drops.update([reason])) as archive:
        archive.keep(keepsake(first))
        archive.keep(keepsake(second))
        wait_until(lambda: not archive.has(first))
        assert not archive.paused
    assert drops == {"write_failed": 1}
    assert kept_ids(tmp_path / "2023") == [second]


def test_days_that_were_removed_by_hand_cost_no_image(tmp_path: Path) -> None:
    drops: Counter[str] = Counter()
    old, new = ids(3), new_id()
    with opened(tmp_path, max_bytes=40_000, on_drop=lambda reason: drops.update([reason])) as archive:
        for one in old:
            archive.keep(keepsake(one))
        wait_until(lambda: archive.bytes == 3 * EACH)
        shutil.rmtree(tmp_path / "2023")
        archive.keep(keepsake(new))
    assert drops == {}
    assert kept_ids(tmp_path) == [new]


def test_half_written_files_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    one = keepsake(ids(1)[0], "pass")
    with opened(tmp_path) as archive:
        archive.keep(one)
    leftover = tmp_path / f"passes/2023/11/14/{ids(2)[1]}.png.part"
    leftover.write_bytes(b"half")
    with opened(tmp_path) as archive:
        wait_until(lambda: not leftover.exists())
        assert archive.image(one.id) == one.image


@pytest.mark.parametrize("crash_at", range(1, 6))
def test_image_of_a_run_that_was_killed_has_its_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    """The n-th of the calls that reach the disk never returns, and nothing is tidied up."""
    calls = 0

    class Killed(BaseException):
        pass

    def counted(name: str, module: object) -> None:
        original = getattr(module, name)

        def call(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == crash_at:
                raise Killed
            return original(*arguments)

        monkeypatch.setattr(module, name, call)

    counted("fsync", os)
    counted("replace", Path)
    one = keepsake(ids(1)[0])
    stem = tmp_path / "2023/11/14" / one.id
    with pytest.raises(Killed):
        archive_files.write(stem, one.image, b"map")
    monkeypatch.undo()
    assert not archive_files.has_image(stem)
    with opened(tmp_path) as archive:
        wait_until(lambda: not list(tmp_path.rglob("*.part")))
        assert not archive.has(one.id)
        archive.keep(one)
    assert [path.suffix for path in files(tmp_path)] == [".npy", ".png"]


def test_no_room_at_all_keeps_nothing_more_and_leaves_what_there_is(tmp_path: Path) -> None:
    old, young, new = ids(1)[0], new_id(), new_id()
    with opened(tmp_path) as archive:
        archive.keep(keepsake(old))
        archive.keep(keepsake(young))
    with opened(tmp_path, max_bytes=0, keep_days=1) as archive:
        archive.keep(keepsake(new))
        assert not archive.has(new)
        wait_until(lambda: not archive.has(old))  # of age it does go, and room is looked at after that
    assert kept_ids(tmp_path) == [young]


def test_what_comes_while_an_earlier_run_is_counted_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_day, second_day = ids(20), ids(6, START + 86_400)
    with opened(tmp_path) as archive:
        for one in (*first_day, second_day[0]):
            archive.keep(keepsake(one, size=100))
    monkeypatch.setattr(shelf, "_STEP", 1)
    with capture_logs() as logs, opened(tmp_path) as archive:
        for one in second_day[1:]:
            archive.keep(keepsake(one, size=100))
        wait_until(lambda: [entry for entry in logs if entry["event"] == "archive_counted"])
    assert archive.bytes == room(tmp_path)


def test_map_that_someone_damaged_is_none(tmp_path: Path) -> None:
    one = keepsake(new_id())
    with opened(tmp_path) as archive:
        archive.keep(one)
    next(tmp_path.rglob("*.npy")).write_bytes(b"")
    with opened(tmp_path) as archive:
        assert archive.anomaly_map(one.id) is None
        assert archive.image(one.id) == one.image


def test_disk_that_cannot_be_read_has_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = keepsake(new_id())
    with opened(tmp_path) as archive:
        archive.keep(one)

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    with opened(tmp_path) as archive:
        wait_until(lambda: archive.bytes == EACH)
        monkeypatch.setattr(Path, "read_bytes", fails)
        monkeypatch.setattr(os, "stat", fails)
        monkeypatch.setattr(np, "load", fails)
        assert (archive.has(one.id), archive.image(one.id), archive.anomaly_map(one.id)) == (False, None, None)
        monkeypatch.undo()
        assert archive.image(one.id) == one.image


@pytest.mark.parametrize("text", ["../../etc/passwd", "x", ""])
def test_only_ids_reach_the_file_system(tmp_path: Path, text: str) -> None:
    with opened(tmp_path) as archive:
        for read in (archive.has, archive.image, archive.anomaly_map):
            with pytest.raises(ValueError, match="no inspection id"):
                read(text)
