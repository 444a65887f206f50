"""Keepsakes for tests, and an archive that is closed in any case."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ulid import ULID

from service.archive import Archive, ArchiveLimits, Keepsake
from service.picture import ImageFile
from service.reply import VerdictWord

MAP = np.linspace(0, 3, 1024, dtype=np.float32).reshape(32, 32)
MAP_FILE_BYTES = 128 + 2 * MAP.size
START = 1_700_000_000.0
"""2023-11-14, 22:13:20 UTC."""


def ids(count: int, start: float = START) -> list[str]:
    """Ids that sort in this order, a second apart; always the same."""
    return [str(ULID.from_int(int(start + n) * 1000 << 80 | random.Random(n).getrandbits(80))) for n in range(count)]


def keepsake(inspection_id: str, verdict: VerdictWord = "fail", size: int = 10_000) -> Keepsake:
    image = ImageFile(".png", inspection_id.encode().ljust(size, b"."))
    return Keepsake(inspection_id, image, None if verdict == "not_evaluated" else MAP, verdict)


@contextmanager
def opened(
    root: Path,
    *,
    max_bytes: int = 10**9,
    queue_bytes: int = 10**9,
    pass_share: float = 1.0,
    keep_days: float | None = None,
    min_free_bytes: int = 0,
    on_drop: Callable[[str], None] = lambda _: None,
    free_bytes: Callable[[Path], int] = lambda _: 10**12,
    retry_s: float = 0.02,
) -> Iterator[Archive]:
    limits = ArchiveLimits(max_bytes, queue_bytes, pass_share, keep_days, min_free_bytes)
    archive = Archive(root, limits, on_drop, free_bytes=free_bytes, retry_s=retry_s)
    try:
        yield archive
    finally:
        archive.close()


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def kept_ids(root: Path) -> list[str]:
    return sorted({path.stem for path in files(root)})


def room(root: Path) -> int:
    return sum(path.stat().st_size for path in files(root))
