"""The files of one kind, in directories by day: how much room they take, and which are the oldest.

Only days are remembered, and a few ids of the oldest one: memory does not grow with the number of images.
"""

import heapq
import os
from collections import deque
from collections.abc import Container, Generator
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from ulid import ULID

from service.archive import files
from service.records.inspection import is_id

log = structlog.get_logger(__name__)

_STEP: Final = 256
"""Files that are counted between two looks at what else is to be done: about a millisecond."""
_LISTED: Final = 10_000
"""Ids of the oldest day that are remembered at once."""


class Shelf:
    """Everything under `root` in `YYYY/MM/DD/`. Not for more than one thread, but for `bytes` and `stem`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._days: dict[str, int] = {}
        self._listed: deque[str] = deque()
        self._listed_day = ""
        self.bytes = 0

    def stem(self, inspection_id: str) -> Path:
        """Where the files of an inspection are, without their suffix.

        Raises:
            ValueError: It is no inspection id.
        """
        if not is_id(inspection_id):
            raise ValueError(f"{inspection_id!r} is no inspection id")
        return self._root / _day(inspection_id) / inspection_id

    def add(self, inspection_id: str, size: int) -> None:
        """Count what was written."""
        day = _day(inspection_id)
        self._days[day] = self._days.get(day, 0) + size
        self.bytes += size
        if day < self._listed_day:  # the clock was set back
            self._listed.clear()

    def count(self, skip: Container[str]) -> Generator[None]:
        """Count what an earlier run kept, a few files a step, and remove what it left half written.

        Args:
            skip: Ids that are counted already; asked at each step.
        """
        for day in _days_under(self._root):
            try:
                yield from self._count_day(day, skip)
            except OSError as error:
                log.error("archive_not_counted", day=day, reason=str(error))

    def _count_day(self, day: str, skip: Container[str]) -> Generator[None]:
        self._days.setdefault(day, 0)
        with os.scandir(self._root / day) as entries:
            for n, entry in enumerate(entries, 1):
                inspection_id = entry.name.partition(".")[0]
                if is_id(inspection_id) and inspection_id not in skip:
                    with suppress(FileNotFoundError):
                        if entry.name.endswith(files.TEMPORARY_SUFFIX):
                            Path(entry).unlink()
                        else:
                            size = entry.stat().st_size
                            self._days[day] += size
                            self.bytes += size
                if n % _STEP == 0:
                    yield
        yield

    def oldest(self) -> str | None:
        """The oldest id; `None` when nothing is kept."""
        while not self._listed:
            day = min(self._days, default=None)
            if day is None:
                return None
            self._listed_day = day
            self._listed.extend(_oldest_ids(self._root / day))
            if not self._listed:
                self._forget(day)
        return self._listed[0]

    def remove_oldest(self) -> None:
        """Remove the files of the oldest id, which there must be.

        Raises:
            OSError: They cannot be removed; the next call goes on to the one that follows.
        """
        inspection_id = self._listed.popleft()
        freed = files.remove(self.stem(inspection_id))
        freed = min(freed, self._days[self._listed_day])
        self._days[self._listed_day] -= freed
        self.bytes -= freed

    def _forget(self, day: str) -> None:
        self.bytes -= self._days.pop(day)  # what is left of it was removed by others
        directory = self._root / day
        with suppress(OSError):  # not empty, or gone already
            while directory != self._root:
                directory.rmdir()
                directory = directory.parent


def _day(inspection_id: str) -> str:
    return f"{ULID.from_str(inspection_id).datetime:%Y/%m/%d}"


def _days_under(root: Path) -> list[str]:
    days = (path.relative_to(root).as_posix() for path in root.glob("[0-9]*/[0-9]*/[0-9]*"))
    return sorted(days)


def _oldest_ids(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            names = (entry.name.partition(".")[0] for entry in entries)
            # An id has two files.
            return list(dict.fromkeys(heapq.nsmallest(2 * _LISTED, filter(is_id, names))))
    except FileNotFoundError:
        return []
