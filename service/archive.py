"""The kept images and maps, written behind the answers' backs and bounded in room.

    archive/YYYY/MM/DD/<id>.png    the image, byte for byte as it came; bare pixels as PNG
    archive/YYYY/MM/DD/<id>.npy    the calibrated anomaly map, float16 [h, w]

The day is that of the id, so that the id alone finds the files. Keeping is best effort: it never fails an inspection.
"""

import io
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import structlog
from ulid import ULID

from atsnet.imaging import Float32Array
from service.picture import ImageFile
from service.records.inspection import is_id

log = structlog.get_logger(__name__)

DropReason = Literal["queue_full", "too_large", "write_failed"]

_MAP_SUFFIX: Final = ".npy"
_TEMPORARY_SUFFIX: Final = ".part"


@dataclass(frozen=True, slots=True)
class Keepsake:
    """What is to be kept of one inspection."""

    id: str
    image: ImageFile
    anomaly_map: Float32Array

    @property
    def waiting_bytes(self) -> int:
        """Memory that it takes while it waits."""
        return len(self.image.data) + self.anomaly_map.nbytes


class Archive:
    """Keeps images and maps under `root`, `max_bytes` in all; the oldest make room for the newest.

    Args:
        root: Directory of the archive; made if need be.
        max_bytes: Room for all files; 0 keeps nothing.
        queue_bytes: Memory for what waits to be written; what comes on top is dropped.
        on_drop: Told, from any thread, about each inspection that was not kept.

    Raises:
        OSError: The directory cannot be made or read.
    """

    def __init__(
        self, root: Path, max_bytes: int, queue_bytes: int, on_drop: Callable[[DropReason], None] = lambda _: None
    ) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._queue_bytes = queue_bytes
        self._on_drop = on_drop
        root.mkdir(parents=True, exist_ok=True)
        self._kept = _scan(root)
        self._kept_bytes = sum(size for _, size in self._kept)
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, Keepsake] = OrderedDict()
        self._waiting_bytes = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    @property
    def bytes(self) -> int:
        """Room that the kept files take."""
        return self._kept_bytes

    def keep(self, keepsake: Keepsake) -> None:
        """Hand over an image and its map to be kept; returns at once."""
        if self._max_bytes == 0:
            return
        with self._changed:
            if self._waiting_bytes + keepsake.waiting_bytes > self._queue_bytes:
                self._drop(keepsake.id, "queue_full")
                return
            self._waiting[keepsake.id] = keepsake
            self._waiting_bytes += keepsake.waiting_bytes
            self._changed.notify()

    def has(self, inspection_id: str) -> bool:
        """Whether the image of that inspection is kept."""
        return inspection_id in self._waiting or self._find_image(inspection_id) is not None

    def image(self, inspection_id: str) -> ImageFile | None:
        """The kept image, `None` if it was not kept or had to make room."""
        waiting = self._waiting.get(inspection_id)
        if waiting is not None:
            return waiting.image.as_file()
        path = self._find_image(inspection_id)
        try:
            return None if path is None else ImageFile(path.suffix, path.read_bytes())
        except FileNotFoundError:  # it made room just now
            return None

    def anomaly_map(self, inspection_id: str) -> Float32Array | None:
        """The kept map, calibrated, `float32 [h, w]`; `None` if it was not kept or had to make room."""
        waiting = self._waiting.get(inspection_id)
        if waiting is not None:
            return waiting.anomaly_map
        try:
            stored = np.load(self._stem(inspection_id).with_suffix(_MAP_SUFFIX), allow_pickle=False)
        except FileNotFoundError:
            return None
        return np.asarray(stored, np.float32)

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                keepsake = next(iter(self._waiting.values()))
            try:
                self._write(keepsake)
            except Exception:  # a full disk or an odd image must not end the thread
                log.exception("image_not_kept", id=keepsake.id)
                self._on_drop("write_failed")
            with self._changed:
                # Only now, so that a reader finds it either here or on disk.
                del self._waiting[keepsake.id]
                self._waiting_bytes -= keepsake.waiting_bytes

    def _write(self, keepsake: Keepsake) -> None:
        image = keepsake.image.as_file()
        encoded_map = _encode_map(keepsake.anomaly_map)
        size = len(image.data) + len(encoded_map)
        if size > self._max_bytes:
            self._drop(keepsake.id, "too_large")
            return
        while self._kept and self._kept_bytes + size > self._max_bytes:
            self._remove_oldest()
        stem = self._stem(keepsake.id)
        stem.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The map first: an image that is there always has its map.
            _write_atomically(stem.with_suffix(_MAP_SUFFIX), encoded_map)
            _write_atomically(stem.with_suffix(image.suffix), image.data)
        except OSError:  # a disk that is full must not fill with what nobody counts
            _remove(stem)
            raise
        self._kept.append((stem, size))
        self._kept_bytes += size

    def _remove_oldest(self) -> None:
        stem, size = self._kept.popleft()
        _remove(stem)
        self._kept_bytes -= size
        directory = stem.parent
        with suppress(OSError):  # not empty, or gone already
            while directory != self._root:
                directory.rmdir()
                directory = directory.parent

    def _drop(self, inspection_id: str, reason: DropReason) -> None:
        log.warning("image_not_kept", id=inspection_id, reason=reason)
        self._on_drop(reason)

    def _stem(self, inspection_id: str) -> Path:
        if not is_id(inspection_id):
            raise ValueError(f"{inspection_id!r} is no inspection id")
        return self._root / f"{ULID.from_str(inspection_id).datetime:%Y/%m/%d}" / inspection_id

    def _find_image(self, inspection_id: str) -> Path | None:
        stem = self._stem(inspection_id)
        paths = (stem.with_suffix(suffix) for suffix in ImageFile.MEDIA_TYPES)
        return next((path for path in paths if path.is_file()), None)


def _scan(root: Path) -> deque[tuple[Path, int]]:
    """Stems and sizes of what an earlier run kept, oldest first; what it left half written is removed."""
    sizes: dict[Path, int] = {}
    for path in root.glob("*/*/*/*"):
        if path.suffix == _TEMPORARY_SUFFIX:
            path.unlink()
        elif is_id(path.stem):
            stem = path.with_suffix("")
            sizes[stem] = sizes.get(stem, 0) + path.stat().st_size
    return deque(sorted(sizes.items(), key=lambda item: item[0].name))


def _encode_map(anomaly_map: Float32Array) -> bytes:
    buffer = io.BytesIO()
    largest = np.finfo(np.float16).max
    np.save(buffer, np.clip(anomaly_map, -largest, largest).astype(np.float16), allow_pickle=False)
    return buffer.getvalue()


def _remove(stem: Path) -> None:
    # By name: listing the directory would cost the more, the more images a day has.
    for suffix in (_MAP_SUFFIX, *ImageFile.MEDIA_TYPES):
        path = stem.with_suffix(suffix)
        path.unlink(missing_ok=True)
        _temporary(path).unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + _TEMPORARY_SUFFIX)


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
