"""Plain folders.

One of good and defective images; a fifth of the good ones is kept to test on, those whose names have the smallest
sha256: the same in every run, and hardly changed by images that are added later:

    good/**/000.png
    <defect>/**/000.png
    masks/<defect>/**/000.png      or ground_truth; without <defect> where there is only one; may be missing

Any other folder holds good images alone, at any depth.
"""

import hashlib
from pathlib import Path
from typing import Final

from atsnet.data.layout.dataset import DataError, Dataset, Sample, list_problems
from atsnet.data.layout.folders import (
    GOOD_NAMES,
    below,
    defect_folders,
    good_folders,
    image_suffixes,
    images_below,
    images_in,
    mask_folders,
)
from atsnet.data.layout.masks import by_stem, label_images, refuse_masks_of_good, refuse_orphans

GOOD_TEST_SHARE: Final = 0.2
"""Share of the good images that are tested on where nobody split them."""


def has_good_and_defects(root: Path) -> bool:
    """Whether a folder holds a folder of good images and one of others."""
    return bool(good_folders(root)) and any(images_below(folder) for folder in defect_folders(root))


def find_good_and_defects(root: Path) -> Dataset:
    """A plain folder with a folder of good images and some of defective ones."""
    loose = [str(path) for path in images_in(root)]
    if loose:
        raise DataError(list_problems(loose, f"in {root} beside its folders of good and defective images"))
    good = [Sample(path, below(root, path)) for folder in good_folders(root) for path in images_below(folder)]
    if len(good) < 2:
        raise DataError(
            f"{root} has too few good images beside its defects, {len(good)}; at least 2 are needed, to train "
            "and to test on"
        )
    by_hash = sorted(good, key=lambda sample: hashlib.sha256(sample.name.encode()).digest())
    tested = set(by_hash[: max(1, round(GOOD_TEST_SHARE * len(good)))])
    defects = defect_folders(root)
    masks: dict[str, dict[str, Path]] = {folder.name: {} for folder in defects}
    mask_roots = mask_folders(root)
    for mask_root in mask_roots:
        refuse_masks_of_good(mask_root)
        for folder in defect_folders(mask_root):
            masks.setdefault(folder.name, {}).update(by_stem(folder, images_below(folder)))
        whose = defects[0].name if len(defects) == 1 else ""
        masks.setdefault(whose, {}).update(by_stem(mask_root, images_in(mask_root)))
    test = [sample for sample in good if sample in tested]
    for folder in defects:
        test += label_images(root, folder, images_below(folder), masks[folder.name])
    refuse_orphans(masks, mask_roots[0] if mask_roots else root, root)
    return Dataset(root, "folder", tuple(sample for sample in good if sample not in tested), tuple(test))


def folders_taken_as_good(dataset: Dataset) -> tuple[str, ...]:
    """The folders right below a set of good images alone, where nothing says that they are good ones."""
    parts = [sample.name.split("/")[:-1] for sample in dataset.train]
    if (
        dataset.layout != "folder"
        or not all(parts)
        or any(name.lower() in GOOD_NAMES for names in parts for name in names)
    ):
        return ()
    return tuple(sorted({names[0] for names in parts}))


def find_good_only(root: Path) -> Dataset:
    """A folder of good images alone, at any depth."""
    masks = {path for mask_root in mask_folders(root) for path in images_below(mask_root)}
    for mask_root in mask_folders(root):
        refuse_masks_of_good(mask_root)
    train = tuple(Sample(path, below(root, path)) for path in images_below(root) if path not in masks)
    if not train:
        raise DataError(f"no images in {root}; looked for {image_suffixes()} there and in its subfolders")
    return Dataset(root, "folder", train)
