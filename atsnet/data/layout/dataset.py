"""Samples, the data sets that they make up, and what is said of files that cannot be used."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Layout = Literal["mvtec", "mvtec-ad-2", "btad", "visa", "folder"]
"""Whose layout a set has: MVTec AD's, MVTec AD 2's, BTAD's or VisA's, or that of a plain folder."""

GOOD: Final = "good"
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


def fingerprint(samples: Iterable[Sample]) -> str:
    """Sha256, in hexadecimal, over the names and contents of images, in whatever order they come.

    Raises:
        DataError: Files cannot be read; all of them are listed.
    """
    digest, ordered = hashlib.sha256(), sorted(samples, key=lambda sample: sample.name)
    for sample, content in zip(ordered, file_digests(ordered), strict=True):
        digest.update(sample.name.encode() + b"\0" + bytes.fromhex(content))
    return digest.hexdigest()


def file_digests(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Sha256, in hexadecimal, of each image's file: two images are the same where these are, whatever their names.

    Raises:
        DataError: Files cannot be read; all of them are listed.
    """
    digests, problems = [], []
    for sample in samples:
        try:
            with sample.path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            problems.append(f"{sample.path}: cannot be read: {error.strerror}")
    if problems:
        raise DataError(list_problems(problems, "cannot be read"))
    return tuple(digests)


def list_problems(problems: Sequence[str], what: str) -> str:
    """One message from a line for each unusable file: how many files `what`, and the first `MAX_LISTED` lines."""
    images = "1 file" if len(problems) == 1 else f"{len(problems)} files"
    return f"{images} {what}:\n  {listed(problems, chr(10) + '  ')}"


def listed(lines: Sequence[str], separator: str) -> str:
    """The first `MAX_LISTED` lines, and how many more there are."""
    more = len(lines) - MAX_LISTED
    return separator.join([*lines[:MAX_LISTED], *([f"and {more} more"] if more > 0 else [])])
