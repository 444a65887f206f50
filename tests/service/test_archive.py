import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from serving import wait_until
from ulid import ULID

from service.archive import Archive, Keepsake
from service.picture import ImageFile
from service.records.inspection import new_id

MAP = np.linspace(0, 3, 1024, dtype=np.float32).reshape(32, 32)


def ids(count: int) -> list[str]:
    """Ids that sort in this order."""
    return [str(ULID.from_timestamp(1_700_000_000.0 + n)) for n in range(count)]


def keepsake(inspection_id: str, size: int = 10_000) -> Keepsake:
    return Keepsake(inspection_id, ImageFile(".png", inspection_id.encode().ljust(size, b".")), MAP)


@contextmanager
def opened(
    root: Path,
    max_bytes: int = 10**9,
    queue_bytes: int = 10**9,
    on_drop: Callable[[str], None] = lambda _: None,
) -> Iterator[Archive]:
    archive = Archive(root, max_bytes, queue_bytes, on_drop)
    try:
        yield archive
    finally:
        archive.close()


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_kept_at_once_and_after_a_restart(tmp_path: Path) -> None:
    one = keepsake(new_id())
    with opened(tmp_path) as archive:
        archive.keep(one)
        assert archive.image(one.id) == one.image
    with opened(tmp_path) as archive:
        assert archive.has(one.id)
        assert archive.image(one.id) == one.image
        kept = archive.anomaly_map(one.id)
        assert kept is not None
        np.testing.assert_allclose(kept, MAP, rtol=2**-10, atol=1e-6)


def test_files_lie_under_the_day_of_their_id(tmp_path: Path) -> None:
    [one] = ids(1)
    with opened(tmp_path) as archive:
        archive.keep(keepsake(one))
    assert files(tmp_path) == [tmp_path / f"2023/11/14/{one}.npy", tmp_path / f"2023/11/14/{one}.png"]


def test_oldest_make_room(tmp_path: Path) -> None:
    all_ids = ids(10)
    with opened(tmp_path, max_bytes=50_000) as archive:
        for one in all_ids:
            archive.keep(keepsake(one))
        wait_until(lambda: not archive.has(all_ids[5]))
    kept = [path.stem for path in files(tmp_path)]
    assert sorted(set(kept)) == all_ids[6:]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 50_000
    with opened(tmp_path, max_bytes=50_000) as archive:
        assert archive.bytes == sum(path.stat().st_size for path in files(tmp_path))
        archive.keep(keepsake(new_id()))
        wait_until(lambda: not archive.has(all_ids[6]))
        assert archive.anomaly_map(all_ids[6]) is None
        assert archive.image(all_ids[6]) is None


def test_days_that_were_emptied_are_removed(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=15_000) as archive:
        archive.keep(keepsake(str(ULID.from_timestamp(1_600_000_000.0))))
        archive.keep(keepsake(ids(1)[0]))
    assert [path.name for path in tmp_path.iterdir()] == ["2023"]


def test_image_larger_than_the_archive_is_dropped_and_counted(tmp_path: Path) -> None:
    drops: Counter[str] = Counter()
    one = keepsake(new_id(), size=20_000)
    with opened(tmp_path, max_bytes=15_000, on_drop=lambda reason: drops.update([reason])) as archive:
        archive.keep(one)
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
    assert sorted({path.stem for path in files(tmp_path)}) == all_ids[:2]


def test_failure_to_write_is_counted_and_the_next_is_kept(tmp_path: Path) -> None:
    drops: Counter[str] = Counter()
    first, second = str(ULID.from_timestamp(1_600_000_000.0)), ids(1)[0]
    (tmp_path / "2020").write_text("in the way of the directory")
    with opened(tmp_path, on_drop=lambda reason: drops.update([reason])) as archive:
        archive.keep(keepsake(first))
        archive.keep(keepsake(second))
        wait_until(lambda: not archive.has(first))
    assert drops == {"write_failed": 1}
    assert {path.stem for path in files(tmp_path / "2023")} == {second}


def test_failure_to_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def no_room_for_the_image(file: int) -> None:
        synced.append(file)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", no_room_for_the_image)
    first, second = ids(2)
    with opened(tmp_path) as archive:
        archive.keep(keepsake(first))
        archive.keep(keepsake(second))
    assert {path.stem for path in files(tmp_path)} == {second}
    assert archive.bytes == sum(path.stat().st_size for path in files(tmp_path))


def test_days_that_were_removed_by_hand_cost_no_image(tmp_path: Path) -> None:
    drops: Counter[str] = Counter()
    old, new = ids(3), new_id()
    with opened(tmp_path, max_bytes=40_000, on_drop=lambda reason: drops.update([reason])) as archive:
        for one in old:
            archive.keep(keepsake(one))
        wait_until(lambda: archive.bytes > 36_000)
        shutil.rmtree(tmp_path / "2023")
        archive.keep(keepsake(new))
    assert drops == {}
    assert {path.stem for path in files(tmp_path)} == {new}


def test_half_written_files_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    one = keepsake(ids(1)[0])
    with opened(tmp_path) as archive:
        archive.keep(one)
    leftover = tmp_path / f"2023/11/14/{one.id}.png.part"
    leftover.write_bytes(b"half")
    with opened(tmp_path) as archive:
        assert archive.image(one.id) == one.image
    assert not leftover.exists()


def test_nothing_is_kept_where_there_is_no_room_at_all(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=0) as archive:
        archive.keep(one := keepsake(new_id()))
        assert not archive.has(one.id)


@pytest.mark.parametrize("text", ["../../etc/passwd", "x", ""])
def test_only_ids_reach_the_file_system(tmp_path: Path, text: str) -> None:
    with opened(tmp_path) as archive, pytest.raises(ValueError, match="no inspection id"):
        archive.image(text)
