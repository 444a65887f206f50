"""Lists folders and images, without hidden ones, sorted by name."""

import os
from pathlib import Path
from typing import Final

from atsnet.data.layout.dataset import GOOD, DataError
from atsnet.imaging import IMAGE_SUFFIXES

GOOD_NAMES: Final = frozenset({GOOD, "ok", "normal"})
"""What folders of good images are called, in lower case."""
MASK_FOLDERS: Final = frozenset({"ground_truth", "masks"})


def folders(root: Path) -> list[Path]:
    """Those right below a folder."""
    return [entry for entry in visible(root) if entry.is_dir()]


def good_folders(root: Path) -> list[Path]:
    """Those right below a folder that good images are in."""
    return [folder for folder in folders(root) if folder.name.lower() in GOOD_NAMES]


def defect_folders(root: Path) -> list[Path]:
    """Those right below a folder that are called neither as good images nor as masks."""
    return [folder for folder in folders(root) if folder.name.lower() not in GOOD_NAMES | MASK_FOLDERS]


def mask_folders(root: Path) -> list[Path]:
    """Those right below a folder that masks are in."""
    return [folder for folder in folders(root) if folder.name.lower() in MASK_FOLDERS]


def images_in(folder: Path) -> list[Path]:
    """Images right in a folder."""
    return [path for path in visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def images_below(root: Path) -> list[Path]:
    """Images in a folder and its subfolders."""
    images = [path for folder in folders_below(root) for path in images_in(folder)]
    return sorted(images, key=lambda path: below(root, path))


def folders_below(root: Path) -> list[Path]:
    """A folder and its subfolders, through links too, though never the same folder twice."""
    found, seen, waiting = [], set[Path](), [root]
    while waiting:
        folder = waiting.pop()
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            found.append(folder)
            waiting += folders(folder)
    return found


def visible(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without hidden ones; none where the folder does not exist."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - names suffice
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    return [folder / name for name in names]


def below(root: Path, path: Path) -> str:
    """A path below a folder, with forward slashes on every system."""
    return path.relative_to(root).as_posix()


def image_suffixes() -> str:
    """What names of images end in, for people."""
    return ", ".join(sorted(IMAGE_SUFFIXES))
