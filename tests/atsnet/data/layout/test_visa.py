from pathlib import Path

import pytest
from dataset_files import labels, masks, touch, write_mask

from atsnet.data.layout import DataError, find_dataset, find_datasets

ROWS = [
    row
    for name in ("candle", "pcb1")
    for row in (
        f"{name},train,normal,{name}/Data/Images/Normal/003.JPG,",
        f"{name},train,normal,{name}/Data/Images/Normal/001.JPG,",
        f"{name},test,normal,{name}/Data/Images/Normal/002.JPG,",
        f"{name},test,anomaly,{name}/Data/Images/Anomaly/000.JPG,{name}/Data/Masks/Anomaly/000.png",
    )
]


def write_visa(root: Path, *rows: str, header: str = "object,split,label,image,mask") -> None:
    """VisA as published: two objects, and a table that splits them."""
    for name in ("candle", "pcb1"):
        touch(root, *(f"{name}/Data/Images/Normal/{index:03d}.JPG" for index in range(4)))
        touch(root, f"{name}/Data/Images/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png")
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir()
    table.write_text("\n".join([header, *(rows or ROWS)]) + "\n")


def test_visa_is_split_by_its_table(tmp_path: Path) -> None:
    write_visa(tmp_path)
    dataset = find_dataset(tmp_path / "pcb1")
    assert (dataset.name, dataset.layout) == ("pcb1", "visa")
    assert [sample.name for sample in dataset.train] == ["Data/Images/Normal/001.JPG", "Data/Images/Normal/003.JPG"]
    assert labels(dataset) == {"Data/Images/Anomaly/000.JPG": "anomaly", "Data/Images/Normal/002.JPG": "good"}
    assert masks(dataset) == {"Data/Images/Anomaly/000.JPG": "Data/Masks/Anomaly/000.png"}
    assert all(sample.path.read_bytes() for sample in (*dataset.train, *dataset.test))
    assert [found.name for found in find_datasets(tmp_path)] == ["candle", "pcb1"]


def test_what_is_wrong_with_the_table_of_visa_is_said(tmp_path: Path) -> None:
    write_visa(tmp_path / "gone", "pcb1,train,normal,pcb1/Data/Images/Normal/009.JPG,")
    write_visa(tmp_path / "odd", "pcb1,train,normal,pcb1/Data/Images/Normal/001.JPG,", "pcb1,train,maybe,x.JPG,")
    write_visa(tmp_path / "empty", "candle,train,normal,candle/Data/Images/Normal/001.JPG,")
    write_visa(tmp_path / "other", "a,b", header="image,label")
    (tmp_path / "missing/pcb1/Data/Images").mkdir(parents=True)
    for name, message in {
        "gone": r"pcb1.Data.Images.Normal.009.JPG: named in row 2 of .*1cls.csv, but not there",
        "odd": r"1cls.csv, row 3: not an image of train or test, normal or anomaly: pcb1,train,maybe,x.JPG,",
        "empty": "has no row of pcb1 for train",
        "other": "its columns should be object, split, label, image, mask",
        "missing": r"split is in .*missing.split_csv.1cls.csv, which cannot be read",
    }.items():
        with pytest.raises(DataError, match=message):
            find_dataset(tmp_path / name / "pcb1")


def test_a_defect_marked_on_a_good_image_of_visa_is_an_error(tmp_path: Path) -> None:
    write_visa(tmp_path, *ROWS[:2], f"{ROWS[0]}candle/Data/Masks/Anomaly/normal.png")
    write_mask(tmp_path / "candle/Data/Masks/Anomaly/normal.png", level=0)
    assert len(find_dataset(tmp_path / "candle").train) == 3
    write_mask(tmp_path / "candle/Data/Masks/Anomaly/normal.png", level=255)
    with pytest.raises(DataError, match=r"marked on a good image"):
        find_dataset(tmp_path / "candle")


def test_visa_converted_to_the_mvtec_layout(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/0001.JPG", "test/good/0002.JPG", "test/bad/000.JPG", "ground_truth/bad/000.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "mvtec"
    assert labels(dataset) == {"test/bad/000.JPG": "bad", "test/good/0002.JPG": "good"}
    assert masks(dataset) == {"test/bad/000.JPG": "ground_truth/bad/000.png"}
