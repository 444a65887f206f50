"""Keeps images and maps in a thread of its own, and pauses while the disk takes nothing."""

import errno
import shutil
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog
from ulid import ULID

from atsnet.imaging import Float32Array
from service.archive import files
from service.archive.keepsake import Keepsake, is_sampled
from service.archive.shelf import Shelf
from service.archive.waiting import Waiting
from service.picture import ImageFile

log = structlog.get_logger(__name__)

DropReason = Literal["queue_full", "paused", "no_room", "too_large", "write_failed"]

RETRY_S: Final = 30.0
_EXPIRE_EVERY_S: Final = 60.0
_BREATH_S: Final = 0.005
"""Between two pieces of work that nobody waits for: inspections come first."""
_REMOVED_AT_ONCE: Final = 64

_DISK_ERRORS: Final = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ENXIO", "ENODEV", "ESTALE", "EACCES", "EPERM")
    if hasattr(errno, name)
)
"""It is the disk, not the image: the next image would fare no better."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much is kept, and for how long.

    Args:
        max_bytes: Room for all files; 0 keeps nothing more, and leaves what there is.
        queue_bytes: Memory for what waits to be written; what comes on top is dropped, passes first.
        pass_share: Share of the passes that is kept; everything else always is.
        keep_days: Days after which files are deleted; by default never.
        min_free_bytes: Room that stays free on the disk.
    """

    max_bytes: int
    queue_bytes: int
    pass_share: float = 1.0
    keep_days: float | None = None
    min_free_bytes: int = 0


class Archive:
    """Keeps images and maps under `root`. When they need room, the oldest passes go first, then the oldest others.

    While the disk is full or fails, nothing is written; what waits is tried again, one at a time.

    Args:
        root: Directory of the archive; made if need be. What it holds is counted behind the back of what comes.
        limits: How much is kept.
        on_drop: Told, from any thread, about each inspection that was not kept, but for passes that are no sample.
        free_bytes: Room on the disk of a directory.
        retry_s: Time until a disk that failed is tried again.

    Raises:
        OSError: The directory cannot be made.
    """

    def __init__(
        self,
        root: Path,
        limits: ArchiveLimits,
        on_drop: Callable[[DropReason], None] = lambda _: None,
        *,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        retry_s: float = RETRY_S,
    ) -> None:
        self._root = root
        self._limits = limits
        self._on_drop = on_drop
        self._free_bytes = free_bytes
        self._retry_s = retry_s
        root.mkdir(parents=True, exist_ok=True)
        self._passes = Shelf(root / "passes")
        self._others = Shelf(root)
        self._new: set[str] = set()
        """Written while what an earlier run kept is still being counted."""
        self._counting: Generator[None] | None = self._count()
        self._expire_at = self._retry_at = 0.0
        self._changed = threading.Condition()
        self._waiting = Waiting(limits.queue_bytes)
        self._paused = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    @property
    def bytes(self) -> int:
        """Room that the kept files take, as far as they are counted."""
        return self._passes.bytes + self._others.bytes

    @property
    def paused(self) -> bool:
        """Whether nothing is written, since the disk is full or fails."""
        return self._paused

    def keep(self, keepsake: Keepsake) -> None:
        """Hand over an image and its map to be kept; returns at once."""
        if self._limits.max_bytes == 0:
            return
        if keepsake.is_pass and not is_sampled(keepsake.id, self._limits.pass_share):
            return
        keepsake = keepsake.alone()
        with self._changed:
            refused = self._waiting.add(keepsake)
            self._changed.notify()
        for one in refused:
            self._drop(one, "paused" if self._paused else "queue_full")

    def has(self, inspection_id: str) -> bool:
        """Whether the image of that inspection is kept."""
        stems = (shelf.stem(inspection_id) for shelf in (self._others, self._passes))
        return self._waiting.get(inspection_id) is not None or any(map(files.has_image, stems))

    def image(self, inspection_id: str) -> ImageFile | None:
        """The kept image, `None` if it was not kept or had to make room."""
        waiting = self._waiting.get(inspection_id)
        if waiting is not None:
            return waiting.image.as_file()
        for shelf in (self._others, self._passes):
            image = files.read_image(shelf.stem(inspection_id))
            if image is not None:
                return image
        return None

    def anomaly_map(self, inspection_id: str) -> Float32Array | None:
        """The kept map, calibrated, `float32 [h, w]`; `None` if there is none, was not kept or had to make room."""
        waiting = self._waiting.get(inspection_id)
        if waiting is not None:
            return waiting.anomaly_map
        for shelf in (self._others, self._passes):
            anomaly_map = files.read_map(shelf.stem(inspection_id))
            if anomaly_map is not None:
                return anomaly_map
        return None

    def close(self) -> None:
        """Write what waits, as far as the disk takes it, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            busy, closing = False, self._closing
            try:
                busy = self._tidy()
                if not self._paused or closing or time.monotonic() >= self._retry_at:
                    self._write_next()
                    self._resume()
            except OSError as error:
                self._pause(error)
            with self._changed:
                if closing and (self._paused or not self._waiting):
                    break
                self._changed.wait_for(self._is_called, _BREATH_S if busy else self._rest_s())
        if self._counting is not None:
            self._counting.close()
        while (keepsake := self._waiting.first()) is not None:
            self._done(keepsake)
            self._drop(keepsake, "paused")

    def _is_called(self) -> bool:
        return self._closing or (bool(self._waiting) and not self._paused)

    def _rest_s(self) -> float:
        return max(self._retry_at - time.monotonic(), 0.0) if self._paused else _EXPIRE_EVERY_S

    def _write_next(self) -> None:
        with self._changed:
            keepsake = self._waiting.first()
        if keepsake is None:
            return
        try:
            self._write(keepsake)
        except Exception as error:  # an odd image must not end the thread
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                with self._changed:
                    self._waiting.postpone(keepsake)
                raise
            log.exception("image_not_kept", id=keepsake.id, reason="write_failed")
            self._on_drop("write_failed")
        self._done(keepsake)

    def _done(self, keepsake: Keepsake) -> None:
        with self._changed:
            self._waiting.remove(keepsake)

    def _write(self, keepsake: Keepsake) -> None:
        image = keepsake.image.as_file()
        encoded_map = None if keepsake.anomaly_map is None else files.encode_map(keepsake.anomaly_map)
        size = len(image.data) + (0 if encoded_map is None else len(encoded_map))
        if size > self._limits.max_bytes:
            self._drop(keepsake, "too_large")
            return
        if not self._make_room(size, only_passes=keepsake.is_pass) and keepsake.is_pass:
            self._drop(keepsake, "no_room")
            return
        self._root.mkdir(parents=True, exist_ok=True)
        free = self._free_bytes(self._root)
        if free < self._limits.min_free_bytes + size:
            needed = f"archive_min_free_bytes={self._limits.min_free_bytes} are to stay free"
            raise OSError(errno.ENOSPC, f"{free} bytes are free on the disk of {self._root}, and {needed}")
        shelf = self._passes if keepsake.is_pass else self._others
        files.write(shelf.stem(keepsake.id), image, encoded_map)
        shelf.add(keepsake.id, size)
        if self._counting is not None:
            self._new.add(keepsake.id)

    def _count(self) -> Generator[None]:
        yield from self._passes.count(self._new)
        yield from self._others.count(self._new)

    def _tidy(self) -> bool:
        """Do a little of what is to be done besides; whether there is more."""
        if self._counting is not None:
            if next(self._counting, self) is self:
                self._counting = None
                self._new.clear()
                log.info("archive_counted", bytes=self.bytes)
            return True
        return self._expire() or (self._limits.max_bytes > 0 and not self._make_room(0))

    def _expire(self) -> bool:
        """Delete a few of those that are too old; whether there may be more."""
        if self._limits.keep_days is None or time.monotonic() < self._expire_at:
            return False
        least = str(ULID.from_timestamp(max(time.time() - self._limits.keep_days * 86_400, 0.0)))
        removed = 0
        for shelf in (self._passes, self._others):
            while (oldest := shelf.oldest()) is not None and oldest < least:
                if removed == _REMOVED_AT_ONCE:
                    return True
                shelf.remove_oldest()
                removed += 1
        self._expire_at = time.monotonic() + _EXPIRE_EVERY_S
        return False

    def _make_room(self, size: int, *, only_passes: bool = False) -> bool:
        """Let the oldest make room, a few at most: where far more is kept than may be, it takes several calls.

        Returns:
            Whether there is room for `size` bytes.
        """
        if self._counting is not None:
            return True
        for _ in range(_REMOVED_AT_ONCE):
            if self.bytes + size <= self._limits.max_bytes:
                return True
            if self._passes.oldest() is not None:
                self._passes.remove_oldest()
            elif only_passes or self._others.oldest() is None:
                break
            else:
                self._others.remove_oldest()
        return self.bytes + size <= self._limits.max_bytes

    def _pause(self, error: OSError) -> None:
        self._retry_at = time.monotonic() + self._retry_s
        if not self._paused:
            self._paused = True
            log.critical("archive_paused", reason=str(error), retry_s=self._retry_s)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            log.warning("archive_resumed")

    def _drop(self, keepsake: Keepsake, reason: DropReason) -> None:
        if reason not in ("paused", "no_room"):  # those would be many, and are said once or meant
            log.warning("image_not_kept", id=keepsake.id, reason=reason)
        self._on_drop(reason)
