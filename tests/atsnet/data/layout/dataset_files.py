"""Writes files of data sets, and tells what was found in them."""

from pathlib import Path

import cv2
import numpy as np

from atsnet.data.layout import Dataset, Sample


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def write_mask(path: Path, *, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((8, 8), np.uint8)
    mask[3, 4] = level
    assert cv2.imwrite(str(path), mask)


def write_samples(root: Path, count: int) -> list[Sample]:
    names = [f"{index:03d}.png" for index in range(count)]
    touch(root, *names)
    return [Sample(root / name, name) for name in names]


def labels(dataset: Dataset) -> dict[str, str]:
    return {sample.name: sample.label for sample in dataset.test}


def masks(dataset: Dataset) -> dict[str, str]:
    found = {sample.name: sample.mask for sample in dataset.test}
    return {name: mask.relative_to(dataset.root).as_posix() for name, mask in found.items() if mask}
