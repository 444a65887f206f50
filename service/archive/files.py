"""The files of one kept inspection: `<stem>.npy`, and `<stem>` with the suffix of its image's type."""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from atsnet.imaging import Float32Array
from service.picture import ImageFile

log = structlog.get_logger(__name__)

MAP_SUFFIX: Final = ".npy"
TEMPORARY_SUFFIX: Final = ".part"


def encode_map(anomaly_map: Float32Array) -> bytes:
    """A calibrated map as a file of float16; what is larger than that can say is as large as it can."""
    buffer = io.BytesIO()
    largest = np.finfo(np.float16).max
    np.save(buffer, np.clip(anomaly_map, -largest, largest).astype(np.float16), allow_pickle=False)
    return buffer.getvalue()


def read_map(stem: Path) -> Float32Array | None:
    """The map, `float32 [h, w]`; `None` where there is none that can be read."""
    path = stem.with_suffix(MAP_SUFFIX)
    try:
        stored = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError) as error:  # the disk fails, or someone else wrote the file
        log.error("map_not_read", path=str(path), reason=str(error))
        return None
    return np.asarray(stored, np.float32)


def has_image(stem: Path) -> bool:
    """Whether there is an image."""
    # Not `is_file`: of a disk that fails, it raises.
    return any(os.path.isfile(stem.with_suffix(suffix)) for suffix in ImageFile.MEDIA_TYPES)  # noqa: PTH113


def read_image(stem: Path) -> ImageFile | None:
    """The image; `None` where there is none that can be read."""
    for suffix in ImageFile.MEDIA_TYPES:
        path = stem.with_suffix(suffix)
        try:
            return ImageFile(suffix, path.read_bytes())
        except FileNotFoundError:
            continue
        except OSError as error:
            log.error("image_not_read", path=str(path), reason=str(error))
            return None
    return None


def write(stem: Path, image: ImageFile, encoded_map: bytes | None) -> None:
    """Write both, the map first and for good: an image that is there has the map that belongs to it.

    Raises:
        OSError: They cannot be written; nothing is left behind, as far as the disk lets go of it.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    try:
        if encoded_map is not None:
            _write_atomically(stem.with_suffix(MAP_SUFFIX), encoded_map)
            _sync_directory(stem.parent)
        _write_atomically(stem.with_suffix(image.suffix), image.data)
    except OSError:  # a disk that is full must not fill with what nobody counts
        with suppress(OSError):  # the first error says more; a temporary name goes at the next start
            remove(stem)
        raise


def remove(stem: Path) -> int:
    """Remove the files.

    Returns:
        The room that they took.
    """
    # By name: listing the directory would cost the more, the more images a day has.
    freed = 0
    for suffix in (*ImageFile.MEDIA_TYPES, MAP_SUFFIX):  # the image first: none is ever without its map
        path = stem.with_suffix(suffix)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            freed += size
        _temporary(path).unlink(missing_ok=True)
    return freed


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # which cannot open one, and needs not
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
