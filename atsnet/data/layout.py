"""Which images a data folder holds, found by how it is laid out.

MVTec AD (Bergmann et al., CVPR 2019), and what others converted to it; BTAD (Mishra et al., ISIE 2021) says `ok` and
`ko`, and its masks are called as their images are:

    train/good/000.png
    test/good/000.png
    test/<defect>/000.png
    ground_truth/<defect>/000_mask.png

MVTec AD 2 (Heckler-Kram et al., 2025). Its `validation` images are good ones to learn from, as those of `train`: which
of them are held out is decided here by seed, as for every other set. The private test sets have no labels and are left
out:

    train/good/000_regular.png
    validation/good/000_regular.png
    test_public/{good,bad}/000_regular.png
    test_public/ground_truth/bad/000_regular_mask.png

VisA (Zou et al., ECCV 2022) as it is published, split by the rows `object,split,label,image,mask` of its table:

    split_csv/1cls.csv
    <object>/Data/Images/{Normal,Anomaly}/000.JPG
    <object>/Data/Masks/Anomaly/000.png

A plain folder of good and defective images. A fifth of the good ones is kept to test on, those whose names have the
smallest sha256: the same in every run, and hardly changed by images that are added later:

    good/**/000.png
    <defect>/**/000.png
    masks/<defect>/**/000.png      or ground_truth; without <defect> where there is only one; may be missing

Any other folder holds good images alone, at any depth. Folders of good images may be called `good`, `ok` or `normal`,
in upper or lower case.

Files are listed here, not decoded: what their pixels are is found out in `atsnet.data.frames`.
"""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from atsnet.imaging import IMAGE_SUFFIXES

Layout = Literal["mvtec", "folder"]
"""`mvtec`: the set says itself which images are to train on; `folder`: it is a plain folder."""

_VISA_TABLE: Final = Path("split_csv") / "1cls.csv"
_VISA_COLUMNS: Final = ("object", "split", "label", "image", "mask")

GOOD: Final = "good"
GOOD_NAMES: Final = frozenset({GOOD, "ok", "normal"})
"""What folders of good images are called, in lower case."""
MASK_FOLDERS: Final = frozenset({"ground_truth", "masks"})
MASK_ENDING: Final = "_mask"
GOOD_TEST_SHARE: Final = 0.2
"""Share of the good images that are tested on where nobody split them."""
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
    def name(self) -> str:
        """What the part is called: the name of the folder."""
        return self.root.resolve().name

    @property
    def unmasked(self) -> tuple[Sample, ...]:
        """Defective images without a mask: they count for image scores, not for pixel scores."""
        return tuple(sample for sample in self.test if sample.defective and sample.mask is None)


def find_dataset(root: Path) -> Dataset:
    """Find the images of one part under `root`, in one of the layouts that the module describes.

    Hidden files and folders are left out.

    Raises:
        DataError: No such folder, no images to train on, a mask that belongs to no image, or several data sets.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"the data folder {root} does not exist")
    find = _finder(root)
    if find is not None:
        return find(root)
    inner = [folder.name for folder in _folders(root) if _finder(folder) is not None]
    if inner:
        raise DataError(f"{root} holds {len(inner)} data sets; name one of them: {_listed(inner, ', ')}")
    return _find_good_only(root)


def find_datasets(root: Path) -> list[Dataset]:
    """Find the images of every part under `root`, sorted by name: the folder itself, or each data set right below it.

    Raises:
        DataError: As `find_dataset`, of any of them.
    """
    if root.is_dir() and _finder(root) is None:
        found = [find(folder) for folder in _folders(root) if (find := _finder(folder)) is not None]
        if found:
            return found
    return [find_dataset(root)]


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


def _finder(root: Path) -> Callable[[Path], Dataset] | None:
    """What reads the layout of a folder; None where it holds good images alone, or several data sets, or is none."""
    folders = {entry.name for entry in _folders(root)}
    if "train" in folders and (folders & {"test", "test_public"} or _good_folders(root / "train")):
        return _find_split
    if (root / "Data" / "Images").is_dir():
        return _find_visa
    if _good_folders(root) and any(_images_below(folder) for folder in _defect_folders(root)):
        return _find_good_and_defects
    return None


def _find_split(root: Path) -> Dataset:
    """MVTec AD, MVTec AD 2 and BTAD: training and test images lie apart."""
    second = (root / "test_public").is_dir()
    learned_from = [root / "train", *([root / "validation"] if second else [])]
    good = [folder for parent in learned_from for folder in _good_folders(parent)] or [root / "train" / GOOD]
    train = tuple(Sample(path, _below(root, path)) for folder in good for path in _images_in(folder))
    if not train:
        raise DataError(f"no good images to train on: {good[0]} has no {_suffixes()} file")
    test_root = root / "test_public" if second else root / "test"
    mask_root = test_root / "ground_truth" if second else root / "ground_truth"
    images = {folder: _images_in(folder) for folder in _folders(test_root) if folder != mask_root}
    masks = {folder.name: _by_stem(folder, _images_in(folder)) for folder in _defect_folders(mask_root)}
    test = [sample for folder in images for sample in _label(root, folder, images[folder], masks.get(folder.name, {}))]
    _refuse_orphans(masks, mask_root, test_root)
    return Dataset(root, "mvtec", train, tuple(test))


def _find_visa(root: Path) -> Dataset:
    """One object of VisA, split by the table beside its folder."""
    table, problems = root.parent / _VISA_TABLE, []
    samples: dict[str, list[Sample]] = {"train": [], "test": []}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{root} is laid out as VisA, whose split is in {table}, which cannot be read: {error}"
        ) from error
    if not rows or tuple(rows[0]) != _VISA_COLUMNS:
        raise DataError(f"{table} is not the split of VisA: its columns should be {', '.join(_VISA_COLUMNS)}")
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(_VISA_COLUMNS) or row[1] not in samples or row[2] not in ("normal", "anomaly"):
            problems.append(f"{table}, row {line}: not an image of train or test, normal or anomaly: {','.join(row)}")
            continue
        category, split, label, image, mask = row
        if category != root.name:
            continue
        files = [root.parent / image, *([root.parent / mask] if mask else [])]
        problems += [f"{path}: named in row {line} of {table}, but not there" for path in files if not path.is_file()]
        if label == "normal":
            samples[split].append(Sample(files[0], _below(root, files[0])))
        elif split == "test":
            samples[split].append(Sample(files[0], _below(root, files[0]), label, files[1] if mask else None))
    if problems:
        raise DataError(list_problems(problems, f"of {root.name} cannot be used"))
    if not samples["train"]:
        raise DataError(f"no good images to train on: {table} has no row of {root.name} for train")
    train, test = (tuple(sorted(samples[split], key=lambda sample: sample.name)) for split in ("train", "test"))
    return Dataset(root, "mvtec", train, test)


def _find_good_and_defects(root: Path) -> Dataset:
    """A plain folder with a folder of good images and some of defective ones."""
    loose = [str(path) for path in _images_in(root)]
    if loose:
        raise DataError(list_problems(loose, f"in {root} lie beside its folders of good and defective images"))
    good = [Sample(path, _below(root, path)) for folder in _good_folders(root) for path in _images_below(folder)]
    if len(good) < 2:
        raise DataError(
            f"{root} has {len(good)} good images beside its defects; at least 2 are needed, to train and to test on"
        )
    by_hash = sorted(good, key=lambda sample: hashlib.sha256(sample.name.encode()).digest())
    tested = set(by_hash[: max(1, round(GOOD_TEST_SHARE * len(good)))])
    defects = _defect_folders(root)
    masks: dict[str, dict[str, Path]] = {folder.name: {} for folder in defects}
    mask_roots = [folder for folder in _folders(root) if folder.name.lower() in MASK_FOLDERS]
    for mask_root in mask_roots:
        for folder in _defect_folders(mask_root):
            masks.setdefault(folder.name, {}).update(_by_stem(folder, _images_below(folder)))
        whose = defects[0].name if len(defects) == 1 else ""
        masks.setdefault(whose, {}).update(_by_stem(mask_root, _images_in(mask_root)))
    test = [sample for sample in good if sample in tested]
    for folder in defects:
        test += _label(root, folder, _images_below(folder), masks[folder.name])
    _refuse_orphans(masks, mask_roots[0] if mask_roots else root, root)
    return Dataset(root, "folder", tuple(sample for sample in good if sample not in tested), tuple(test))


def _find_good_only(root: Path) -> Dataset:
    below = [str(folder) for folder in _folders_below(root)[1:] if _finder(folder) is not None]
    if below:
        raise DataError(f"{root} holds data sets further down; name the folder above them: {_listed(below, ', ')}")
    train = tuple(Sample(path, _below(root, path)) for path in _images_below(root))
    if not train:
        raise DataError(f"no images in {root}; looked for {_suffixes()} there and in its subfolders")
    return Dataset(root, "folder", train)


def _label(root: Path, folder: Path, images: Sequence[Path], masks: dict[str, Path]) -> list[Sample]:
    """Samples of one test folder; each takes its mask out of `masks`."""
    if folder.name.lower() in GOOD_NAMES:
        return [Sample(path, _below(root, path)) for path in images]
    stems = [_stem(folder, path) for path in images]
    twice = [stem for stem, count in Counter(stems).items() if count > 1 and stem in masks]
    if twice:
        raise DataError(f"{folder} has several images for one mask: {_listed(twice, ', ')}")
    return [
        Sample(path, _below(root, path), folder.name, masks.pop(stem, None))
        for path, stem in zip(images, stems, strict=True)
    ]


def _refuse_orphans(masks: Mapping[str, Mapping[str, Path]], mask_root: Path, image_root: Path) -> None:
    """Masks that no sample took are a sign of a wrong layout, which would silently cost pixel figures."""
    orphans = [str(path) for of_defect in masks.values() for path in of_defect.values()]
    if orphans:
        raise DataError(list_problems(orphans, f"under {mask_root} are masks of no image under {image_root.name}"))


def _by_stem(folder: Path, masks: Iterable[Path]) -> dict[str, Path]:
    """Masks by the path, below the defect's folder and without ending, of the image that they belong to."""
    return {_stem(folder, path).removesuffix(MASK_ENDING): path for path in masks}


def _stem(folder: Path, path: Path) -> str:
    return _below(folder, path.with_suffix(""))


def _folders(root: Path) -> list[Path]:
    return [entry for entry in _visible(root) if entry.is_dir()]


def _good_folders(root: Path) -> list[Path]:
    return [folder for folder in _folders(root) if folder.name.lower() in GOOD_NAMES]


def _defect_folders(root: Path) -> list[Path]:
    return [folder for folder in _folders(root) if folder.name.lower() not in GOOD_NAMES | MASK_FOLDERS]


def _images_in(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def _images_below(root: Path) -> list[Path]:
    """Images in a folder and its subfolders."""
    images = [path for folder in _folders_below(root) for path in _images_in(folder)]
    return sorted(images, key=lambda path: _below(root, path))


def _folders_below(root: Path) -> list[Path]:
    """A folder and its subfolders, through links too, though never the same folder twice."""
    found, seen, waiting = [], set[Path](), [root]
    while waiting:
        folder = waiting.pop()
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            found.append(folder)
            waiting += _folders(folder)
    return found


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
