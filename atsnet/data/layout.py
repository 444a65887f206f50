"""Which images a data folder holds: the MVTec AD layout, or a plain folder of good images.

    train/good/000.png
    test/good/000.png
    test/<defect>/000.png
    ground_truth/<defect>/000_mask.png

Files are listed here, not decoded: what their pixels are is found out in `atsnet.data.frames`.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from atsnet.imaging import IMAGE_SUFFIXES

Layout = Literal["mvtec", "folder"]

GOOD: Final = "good"
MASK_ENDING: Final = "_mask"
MAX_LISTED: Final = 20
"""How many files an error names before it only counts."""


class DataError(Exception):
    """A data folder, or images in it, cannot be used; the message names the paths and says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set."""

    path: Path
    name: str
    """Path below the data set's root, with forward slashes on every system."""
    label: str = GOOD
    """`good`, or the name of the defect."""
    mask: Path | None = None
    """Picture of the same size, not 0 where the defect is."""

    @property
    def defective(self) -> bool:
        """Whether the image shows a defect."""
        return self.label != GOOD


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images of a data folder, sorted by name."""

    root: Path
    layout: Layout
    train: tuple[Sample, ...]
    """Good images; never empty."""
    test: tuple[Sample, ...] = ()

    @property
    def unmasked(self) -> tuple[Sample, ...]:
        """Defective images without a mask: they count for image scores, not for pixel scores."""
        return tuple(sample for sample in self.test if sample.defective and sample.mask is None)


def find_dataset(root: Path) -> Dataset:
    """Find the images under `root`.

    A folder that has `train/good`, or both `train` and `test`, is in the MVTec AD layout. Any other one is a plain
    folder: all images in it and in its subfolders are good ones to train on. Hidden files and folders are left out.

    Raises:
        DataError: No such folder, no images to train on, a mask that belongs to no image, or several data sets.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"the data folder {root} does not exist")
    if (root / "train" / GOOD).is_dir() or ((root / "train").is_dir() and (root / "test").is_dir()):
        return _find_mvtec(root)
    inner = [entry.name for entry in _visible(root) if (entry / "train" / GOOD).is_dir()]
    if inner:
        raise DataError(f"{root} holds {len(inner)} data sets; name one of them: {_listed(inner, ', ')}")
    train = tuple(Sample(path, _below(root, path)) for path in _images_below(root))
    if not train:
        raise DataError(f"no images in {root}; looked for {_suffixes()} there and in its subfolders")
    return Dataset(root, "folder", train)


def split_holdout(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split samples at random, the same way for the same samples and seed, into those to train on and a holdout.

    Returns:
        The samples to train on and the held-out ones, at least one of each, in the order given.

    Raises:
        DataError: Fewer than two samples.
        ValueError: `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the holdout fraction must be between 0 and 1, not {fraction}")
    if len(samples) < 2:
        where = f": only {samples[0].path}" if samples else ""
        raise DataError(
            f"at least 2 good images are needed, one to train on and one to hold out; got {len(samples)}{where}"
        )
    count = min(max(1, round(fraction * len(samples))), len(samples) - 1)
    held_out = set(np.random.default_rng(seed).permutation(len(samples))[:count].tolist())
    return (
        tuple(sample for index, sample in enumerate(samples) if index not in held_out),
        tuple(sample for index, sample in enumerate(samples) if index in held_out),
    )


def fingerprint(samples: Iterable[Sample]) -> str:
    """Sha256, in hexadecimal, over the names and contents of images, in whatever order they come.

    Raises:
        DataError: Files cannot be read; all of them are listed.
    """
    digest, problems = hashlib.sha256(), []
    for sample in sorted(samples, key=lambda sample: sample.name):
        try:
            with sample.path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256")
        except OSError as error:
            problems.append(f"{sample.path}: cannot be read: {error.strerror}")
            continue
        digest.update(sample.name.encode() + b"\0" + content.digest())
    if problems:
        raise DataError(list_problems(problems, "cannot be read"))
    return digest.hexdigest()


def list_problems(problems: Sequence[str], what: str) -> str:
    """One message from a line for each unusable file: how many files `what`, and the first `MAX_LISTED` lines."""
    images = "1 file" if len(problems) == 1 else f"{len(problems)} files"
    return f"{images} {what}:\n  {_listed(problems, chr(10) + '  ')}"


def _find_mvtec(root: Path) -> Dataset:
    train_folder = root / "train" / GOOD
    train = tuple(Sample(path, _below(root, path)) for path in _images_in(train_folder))
    if not train:
        raise DataError(f"no good images to train on: {train_folder} has no {_suffixes()} file")
    masks = {
        folder.name: _masks_in(folder)
        for folder in _visible(root / "ground_truth")
        if folder.is_dir() and folder.name != GOOD
    }
    test: list[Sample] = []
    for folder in _visible(root / "test"):
        if not folder.is_dir():
            continue
        images = _images_in(folder)
        of_defect = masks.get(folder.name, {})
        twice = [
            stem for stem, count in Counter(path.stem for path in images).items() if count > 1 and stem in of_defect
        ]
        if twice:
            raise DataError(f"{folder} has several images for one mask: {_listed(twice, ', ')}")
        test += [Sample(path, _below(root, path), folder.name, of_defect.pop(path.stem, None)) for path in images]
    orphans = [str(path) for of_defect in masks.values() for path in of_defect.values()]
    if orphans:
        raise DataError(list_problems(orphans, f"under {root / 'ground_truth'} are masks of no image under test"))
    return Dataset(root, "mvtec", train, tuple(test))


def _masks_in(folder: Path) -> dict[str, Path]:
    """Masks by the stem of the image that they belong to."""
    return {path.stem.removesuffix(MASK_ENDING): path for path in _images_in(folder)}


def _images_in(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def _images_below(root: Path) -> list[Path]:
    """Images in a folder and its subfolders, through links too, though never twice through the same folder."""
    images, seen, waiting = [], set[Path](), [root]
    while waiting:
        folder = waiting.pop()
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            images += _images_in(folder)
            waiting += [entry for entry in _visible(folder) if entry.is_dir()]
    return sorted(images, key=lambda path: _below(root, path))


def _visible(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without hidden ones; none where the folder does not exist."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - names suffice
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    return [folder / name for name in names]


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _listed(lines: Sequence[str], separator: str) -> str:
    more = len(lines) - MAX_LISTED
    return separator.join([*lines[:MAX_LISTED], *([f"and {more} more"] if more > 0 else [])])


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
