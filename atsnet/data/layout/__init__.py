"""Which images a data folder holds, found by how it is laid out.

`mvtec`: MVTec AD, MVTec AD 2 and BTAD, which keep training and test images apart; `visa`: VisA, split by its table;
`plain`: a plain folder of good and defective images, or of good ones alone. Folders of good images may be called
`good`, `ok` or `normal`, in upper or lower case.

Files are listed here, not decoded, but for masks of good images, which must be empty: what their pixels are is found
out in `atsnet.data.frames`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from atsnet.data.layout.dataset import (
    GOOD,
    MAX_LISTED,
    DataError,
    Dataset,
    Layout,
    Sample,
    file_digests,
    fingerprint,
    list_problems,
    listed,
)
from atsnet.data.layout.folders import GOOD_NAMES, MASK_FOLDERS, folders, folders_below
from atsnet.data.layout.holdout import holdout_size, images_to_hold_out, split_holdout
from atsnet.data.layout.masks import MASK_ENDING
from atsnet.data.layout.mvtec import find_split, is_split
from atsnet.data.layout.plain import (
    GOOD_TEST_SHARE,
    find_good_and_defects,
    find_good_only,
    folders_taken_as_good,
    has_good_and_defects,
)
from atsnet.data.layout.visa import find_visa, is_visa

__all__ = [
    "GOOD",
    "GOOD_NAMES",
    "GOOD_TEST_SHARE",
    "MASK_ENDING",
    "MASK_FOLDERS",
    "MAX_LISTED",
    "DataError",
    "Dataset",
    "Layout",
    "Sample",
    "file_digests",
    "find_dataset",
    "find_datasets",
    "fingerprint",
    "folders_taken_as_good",
    "holdout_size",
    "images_to_hold_out",
    "list_problems",
    "listed",
    "split_holdout",
]

_LAYOUTS: Final[tuple[tuple[Callable[[Path], bool], Callable[[Path], Dataset]], ...]] = (
    (is_split, find_split),
    (is_visa, find_visa),
    (has_good_and_defects, find_good_and_defects),
)
"""What recognises a layout, and what reads it; the first one that does."""


def find_dataset(root: Path) -> Dataset:
    """Find the images of one part under `root`, in one of the layouts that the modules beside describe.

    Hidden files and folders are left out.

    Raises:
        DataError: No such folder, no images to train on, a mask that belongs to no image, one that marks a defect on a
            good image, or several data sets.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"the data folder {root} does not exist")
    find = _finder(root)
    if find is not None:
        return find(root)
    inner = [folder.name for folder in folders(root) if _finder(folder) is not None]
    if inner:
        raise DataError(f"{root} holds {len(inner)} data sets; name one of them: {listed(inner, ', ')}")
    below = [str(folder) for folder in folders_below(root)[1:] if _finder(folder) is not None]
    if below:
        raise DataError(f"{root} holds data sets further down; name the folder above them: {listed(below, ', ')}")
    return find_good_only(root)


def find_datasets(root: Path) -> list[Dataset]:
    """Find the images of every part under `root`, sorted by name: the folder itself, or each data set right below it.

    Raises:
        DataError: As `find_dataset`, of any of them.
    """
    if root.is_dir() and _finder(root) is None:
        found = [find(folder) for folder in folders(root) if (find := _finder(folder)) is not None]
        if found:
            return found
    return [find_dataset(root)]


def _finder(root: Path) -> Callable[[Path], Dataset] | None:
    """What reads the layout of a folder; None where it holds good images alone, or several data sets, or is none."""
    return next((find for recognises, find in _LAYOUTS if recognises(root)), None)
