from collections.abc import Iterator
from pathlib import Path

import pytest
from archiving import START, files, ids, keepsake, room

from service.archive import files as archive_files
from service.archive import shelf as shelf_module
from service.archive.shelf import Shelf

DAY_S = 86_400.0


def put(shelf: Shelf, some: list[str]) -> None:
    for one in some:
        archive_files.write(shelf.stem(one), keepsake(one).image, b"map")


def counted(root: Path) -> Shelf:
    shelf = Shelf(root)
    for _ in shelf.count(set()):
        pass
    return shelf


def emptied(shelf: Shelf) -> Iterator[str]:
    while (oldest := shelf.oldest()) is not None:
        yield oldest
        shelf.remove_oldest()


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "_STEP", 4)
    monkeypatch.setattr(shelf_module, "_LISTED", 3)


def test_oldest_first_over_days_and_more_than_are_listed_at_once(tmp_path: Path) -> None:
    some = [one for day in (0, 1, 40) for one in ids(8, START + day * DAY_S)]
    put(Shelf(tmp_path), some[::-1])
    shelf = counted(tmp_path)
    assert shelf.bytes == room(tmp_path)
    assert list(emptied(shelf)) == some
    assert shelf.bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_counting_goes_in_steps_and_counts_nothing_twice(tmp_path: Path) -> None:
    old, new = ids(20)[:10], ids(20)[10:]
    shelf, added = Shelf(tmp_path), set[str]()
    put(shelf, old)
    steps = 0
    for one, _ in zip(new, shelf.count(added), strict=False):
        steps += 1
        put(shelf, [one])
        shelf.add(one, 10_003)
        added.add(one)
    assert steps >= 5
    for _ in shelf.count(set(old) | added):
        pass
    assert shelf.bytes == room(tmp_path)


def test_what_is_no_inspection_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    some = ids(2)
    put(Shelf(tmp_path), some)
    note = tmp_path / "2023/11/14/readme.txt.part"
    note.write_text("somebody's")
    (tmp_path / "passes").mkdir()
    shelf = counted(tmp_path)
    assert shelf.bytes == room(tmp_path) - note.stat().st_size
    assert list(emptied(shelf)) == some
    assert files(tmp_path) == [note]


def test_counting_reads_no_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(Shelf(tmp_path), ids(3))

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr(Path, "open", opened)
    assert counted(tmp_path).bytes == 3 * 10_003


def test_day_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    put(Shelf(tmp_path), ids(2))
    (tmp_path / "2024/01").mkdir(parents=True)
    (tmp_path / "2024/01/01").write_text("no directory")
    assert counted(tmp_path).bytes == room(tmp_path) - len("no directory")


def test_file_that_cannot_be_removed_is_left_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = ids(2)
    put(Shelf(tmp_path), some)
    shelf = counted(tmp_path)
    assert shelf.oldest() == some[0]
    with monkeypatch.context() as patch:
        patch.setattr(archive_files, "remove", lambda _: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
        with pytest.raises(PermissionError):
            shelf.remove_oldest()
    assert list(emptied(shelf)) == [some[1], some[0]]
    assert shelf.bytes == 0


def test_day_before_the_listed_one_is_the_oldest(tmp_path: Path) -> None:
    later, earlier = ids(3), ids(1, START - 10 * DAY_S)
    put(Shelf(tmp_path), later)
    shelf = counted(tmp_path)
    assert shelf.oldest() == later[0]
    put(shelf, earlier)  # the clock was set back
    shelf.add(earlier[0], 10_003)
    assert list(emptied(shelf)) == [*earlier, *later]
    assert shelf.bytes == 0
