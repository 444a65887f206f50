"""Which mask belongs to which image of a defect."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from atsnet.data.layout.dataset import DataError, Sample, list_problems, listed
from atsnet.data.layout.folders import GOOD_NAMES, below, good_folders, images_below
from atsnet.imaging import ImageError, read_image

MASK_ENDING: Final = "_mask"


def label_images(root: Path, folder: Path, images: Sequence[Path], masks: dict[str, Path]) -> list[Sample]:
    """Samples of one test folder; each takes its mask out of `masks`."""
    if folder.name.lower() in GOOD_NAMES:
        return [Sample(path, below(root, path)) for path in images]
    stems = [_stem(folder, path) for path in images]
    twice = [stem for stem, count in Counter(stems).items() if count > 1 and stem in masks]
    if twice:
        raise DataError(f"{folder} has several images for one mask: {listed(twice, ', ')}")
    return [
        Sample(path, below(root, path), folder.name, masks.pop(stem, None))
        for path, stem in zip(images, stems, strict=True)
    ]


def refuse_orphans(masks: Mapping[str, Mapping[str, Path]], mask_root: Path, image_root: Path) -> None:
    """Masks that no sample took are a sign of a wrong layout, which would silently cost pixel figures."""
    orphans = [str(path) for of_defect in masks.values() for path in of_defect.values()]
    if orphans:
        raise DataError(list_problems(orphans, f"under {mask_root}, masks of no image under {image_root.name}"))


def refuse_masks_of_good(mask_root: Path) -> None:
    """A defect marked on a good image: one of the two labels is wrong."""
    refuse_marked([path for folder in good_folders(mask_root) for path in images_below(folder)])


def refuse_marked(masks: Iterable[Path]) -> None:
    """Refuse masks of good images, unless they are empty: 0 everywhere."""
    try:
        marked = [str(path) for path in masks if read_image(path).any()]
    except ImageError as error:
        raise DataError(str(error)) from error
    if marked:
        raise DataError(
            list_problems(
                marked, "with a defect marked on a good image; move the image to its defect, or remove the mask"
            )
        )


def by_stem(folder: Path, masks: Iterable[Path]) -> dict[str, Path]:
    """Masks by the path, below the defect's folder and without ending, of the image that they belong to."""
    return {_stem(folder, path).removesuffix(MASK_ENDING): path for path in masks}


def _stem(folder: Path, path: Path) -> str:
    return below(folder, path.with_suffix(""))
