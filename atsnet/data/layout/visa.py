"""VisA (Zou et al., ECCV 2022) as it is published, split by the rows `object,split,label,image,mask` of its table.

split_csv/1cls.csv
<object>/Data/Images/{Normal,Anomaly}/000.JPG
<object>/Data/Masks/Anomaly/000.png
"""

import csv
from pathlib import Path
from typing import Final

from atsnet.data.layout.dataset import DataError, Dataset, Sample, list_problems
from atsnet.data.layout.folders import below
from atsnet.data.layout.masks import refuse_marked

_TABLE: Final = Path("split_csv") / "1cls.csv"
_COLUMNS: Final = ("object", "split", "label", "image", "mask")


def is_visa(root: Path) -> bool:
    """Whether a folder is that of one object of VisA."""
    return (root / "Data" / "Images").is_dir()


def find_visa(root: Path) -> Dataset:
    """One object of VisA, split by the table beside its folder."""
    table, problems, of_good = root.parent / _TABLE, list[str](), list[Path]()
    samples: dict[str, list[Sample]] = {"train": [], "test": []}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{root} is laid out as VisA, whose split is in {table}, which cannot be read: {error}"
        ) from error
    if not rows or tuple(rows[0]) != _COLUMNS:
        raise DataError(f"{table} is not the split of VisA: its columns should be {', '.join(_COLUMNS)}")
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(_COLUMNS) or row[1] not in samples or row[2] not in ("normal", "anomaly"):
            problems.append(f"{table}, row {line}: not an image of train or test, normal or anomaly: {','.join(row)}")
            continue
        category, split, label, image, mask = row
        if category != root.name:
            continue
        files = [root.parent / image, *([root.parent / mask] if mask else [])]
        problems += [f"{path}: named in row {line} of {table}, but not there" for path in files if not path.is_file()]
        if label == "normal":
            of_good += files[1:]
            samples[split].append(Sample(files[0], below(root, files[0])))
        elif split == "test":
            samples[split].append(Sample(files[0], below(root, files[0]), label, files[1] if mask else None))
    if problems:
        raise DataError(list_problems(problems, f"of {root.name} cannot be used"))
    refuse_marked(of_good)
    if not samples["train"]:
        raise DataError(f"no good images to train on: {table} has no row of {root.name} for train")
    train, test = (tuple(sorted(samples[split], key=lambda sample: sample.name)) for split in ("train", "test"))
    return Dataset(root, "visa", train, test)
