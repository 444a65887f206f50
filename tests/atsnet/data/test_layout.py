from pathlib import Path

import cv2
import numpy as np
import pytest

from atsnet.data.grains import write_grain_set
from atsnet.data.layout import (
    DataError,
    Dataset,
    Sample,
    find_dataset,
    find_datasets,
    fingerprint,
    folders_taken_as_good,
    holdout_size,
    images_to_hold_out,
    split_holdout,
)


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def _labels(dataset: Dataset) -> dict[str, str]:
    return {sample.name: sample.label for sample in dataset.test}


def _masks(dataset: Dataset) -> dict[str, str]:
    found = {sample.name: sample.mask for sample in dataset.test}
    return {name: mask.relative_to(dataset.root).as_posix() for name, mask in found.items() if mask}


def _visa(root: Path, *rows: str, header: str = "object,split,label,image,mask") -> None:
    """VisA as published: two objects, and a table that splits them."""
    for name in ("candle", "pcb1"):
        _touch(root, *(f"{name}/Data/Images/Normal/{index:03d}.JPG" for index in range(4)))
        _touch(root, f"{name}/Data/Images/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png")
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir()
    table.write_text("\n".join([header, *(rows or _VISA_ROWS)]) + "\n")


_VISA_ROWS = [
    row
    for name in ("candle", "pcb1")
    for row in (
        f"{name},train,normal,{name}/Data/Images/Normal/003.JPG,",
        f"{name},train,normal,{name}/Data/Images/Normal/001.JPG,",
        f"{name},test,normal,{name}/Data/Images/Normal/002.JPG,",
        f"{name},test,anomaly,{name}/Data/Images/Anomaly/000.JPG,{name}/Data/Masks/Anomaly/000.png",
    )
]


def _samples(root: Path, count: int) -> list[Sample]:
    names = [f"{index:03d}.png" for index in range(count)]
    _touch(root, *names)
    return [Sample(root / name, name) for name in names]


def test_a_set_of_grains_is_in_the_mvtec_layout(tmp_path: Path) -> None:
    write_grain_set(tmp_path, train=3, good=2, defects=5, size=64)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "mvtec"
    assert [sample.name for sample in dataset.train] == [f"train/good/{index:03d}.png" for index in range(3)]
    assert all(sample.label == "good" and sample.mask is None and not sample.defective for sample in dataset.train)
    assert [(sample.name, sample.label) for sample in dataset.test] == [
        ("test/chip/000.png", "chip"),
        ("test/contamination/000.png", "contamination"),
        ("test/crack/000.png", "crack"),
        ("test/good/000.png", "good"),
        ("test/good/001.png", "good"),
        ("test/pit/000.png", "pit"),
        ("test/scratch/000.png", "scratch"),
    ]
    for sample in dataset.test:
        expected = tmp_path / "ground_truth" / sample.label / "000_mask.png" if sample.defective else None
        assert sample.mask == expected
        assert sample.path == tmp_path / sample.name
    assert dataset.unmasked == ()


def test_what_is_no_visible_image_is_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "train/good/a.png", "train/good/.hidden.png", "train/good/notes.txt", "train/good/b.JPG")
    _touch(tmp_path, "test/dent/1.png", "test/.cache/1.png", "test/readme.png", "ground_truth/dent/1_mask.png")
    (tmp_path / "train/good/folder.png").mkdir()
    dataset = find_dataset(tmp_path)
    assert [sample.name for sample in dataset.train] == ["train/good/a.png", "train/good/b.JPG"]
    assert [sample.name for sample in dataset.test] == ["test/dent/1.png"]


def test_a_defective_image_without_a_mask_is_kept_and_reported(tmp_path: Path) -> None:
    _touch(tmp_path, "train/good/a.png", "test/dent/1.png", "test/dent/2.png", "ground_truth/dent/2_mask.png")
    dataset = find_dataset(tmp_path)
    assert [sample.name for sample in dataset.unmasked] == ["test/dent/1.png"]
    assert dataset.test[1].mask == tmp_path / "ground_truth/dent/2_mask.png"


def test_masks_of_no_image_are_an_error_that_lists_them(tmp_path: Path) -> None:
    _touch(tmp_path, "train/good/a.png", "test/dent/1.png", "ground_truth/dent/1_mask.png")
    _touch(tmp_path, "ground_truth/dent/7_mask.png", "ground_truth/rust/1_mask.png")
    with pytest.raises(DataError) as caught:
        find_dataset(tmp_path)
    message = str(caught.value)
    assert message.startswith("2 files under ")
    assert str(tmp_path / "ground_truth/dent/7_mask.png") in message
    assert str(tmp_path / "ground_truth/rust/1_mask.png") in message
    assert "dent/1_mask" not in message


def _mask(path: Path, *, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((8, 8), np.uint8)
    mask[3, 4] = level
    assert cv2.imwrite(str(path), mask)


@pytest.mark.parametrize(
    ("made", "masks"),
    [
        (("train/good/a.png", "test/good/1.png", "test/dent/1.png"), "ground_truth/good"),
        (("train/ok/a.png", "test/ok/1.png", "test/ko/1.png"), "ground_truth/ok"),
        (("good/1.png", "good/2.png", "dent/1.png"), "masks/Good/lot1"),
    ],
)
def test_a_defect_marked_on_a_good_image_is_an_error_unless_the_mask_is_empty(
    tmp_path: Path, made: tuple[str, ...], masks: str
) -> None:
    _touch(tmp_path, *made)
    _mask(tmp_path / masks / "2_mask.png", level=0)
    assert all(sample.mask is None for sample in find_dataset(tmp_path).test)
    _mask(tmp_path / masks / "1_mask.png", level=1)
    with pytest.raises(DataError, match=r"(?s)1 file with a defect marked on a good image.*1_mask\.png") as caught:
        find_dataset(tmp_path)
    assert "2_mask" not in str(caught.value)
    (tmp_path / masks / "1_mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1_mask\.png"):
        find_dataset(tmp_path)


def test_a_defect_marked_on_a_good_image_of_visa_is_an_error(tmp_path: Path) -> None:
    _visa(tmp_path, *_VISA_ROWS[:2], f"{_VISA_ROWS[0]}candle/Data/Masks/Anomaly/normal.png")
    _mask(tmp_path / "candle/Data/Masks/Anomaly/normal.png", level=0)
    assert len(find_dataset(tmp_path / "candle").train) == 3
    _mask(tmp_path / "candle/Data/Masks/Anomaly/normal.png", level=255)
    with pytest.raises(DataError, match=r"marked on a good image"):
        find_dataset(tmp_path / "candle")


def test_two_images_for_one_mask_are_an_error(tmp_path: Path) -> None:
    _touch(tmp_path, "train/good/a.png", "test/dent/1.png", "test/dent/1.jpg", "ground_truth/dent/1_mask.png")
    with pytest.raises(DataError, match="several images for one mask: 1"):
        find_dataset(tmp_path)


@pytest.mark.parametrize("made", ["train/good/notes.txt", "train/bad/1.png"])
def test_no_good_images_to_train_on(tmp_path: Path, made: str) -> None:
    _touch(tmp_path, made, "test/good/1.png")
    with pytest.raises(DataError, match=str(tmp_path / "train" / "good")):
        find_dataset(tmp_path)


def test_a_plain_folder_holds_good_images_at_any_depth(tmp_path: Path) -> None:
    _touch(tmp_path, "z.png", "lot2/b.tif", "lot1/deep/a.bmp", ".trash/x.png", "lot1/.x.png", "lot1/list.csv")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "folder"
    assert [sample.name for sample in dataset.train] == ["lot1/deep/a.bmp", "lot2/b.tif", "z.png"]
    assert dataset.test == ()


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    _touch(root, "a.png")
    _touch(elsewhere, "b.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "itself").symlink_to(root)
    assert [sample.name for sample in find_dataset(root).train] == ["a.png", "linked/b.png"]


def test_several_data_sets_are_not_one_folder_of_good_images(tmp_path: Path) -> None:
    _touch(tmp_path, "bottle/train/good/1.png", "bottle/test/broken/1.png", "cable/train/good/1.png")
    with pytest.raises(DataError, match=r"holds 2 data sets; name one of them: bottle, cable"):
        find_dataset(tmp_path)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    missing, file, empty = tmp_path / "missing", tmp_path / "a.png", tmp_path / "empty"
    file.write_bytes(b"")
    empty.mkdir()
    for path, message in ((missing, "does not exist"), (file, "is not a folder"), (empty, "no images in")):
        with pytest.raises(DataError, match=message) as caught:
            find_dataset(path)
        assert str(path) in str(caught.value)


def test_mvtec_ad_2_learns_from_its_validation_images_too(tmp_path: Path) -> None:
    _touch(tmp_path, "train/good/000_regular.png", "validation/good/001_regular.png")
    _touch(tmp_path, "test_public/good/000_regular.png", "test_public/good/000_shift_1.png")
    _touch(tmp_path, "test_public/bad/000_regular.png", "test_public/ground_truth/bad/000_regular_mask.png")
    _touch(tmp_path, "test_private/000_regular.png", "test_private_mixed/000_mixed.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "mvtec-ad-2"
    assert [sample.name for sample in dataset.train] == [
        "train/good/000_regular.png",
        "validation/good/001_regular.png",
    ]
    assert _labels(dataset) == {
        "test_public/bad/000_regular.png": "bad",
        "test_public/good/000_regular.png": "good",
        "test_public/good/000_shift_1.png": "good",
    }
    assert _masks(dataset) == {"test_public/bad/000_regular.png": "test_public/ground_truth/bad/000_regular_mask.png"}


def test_btad_calls_good_images_ok_and_masks_as_their_images(tmp_path: Path) -> None:
    _touch(tmp_path, "train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "test/ko/0001.bmp")
    _touch(tmp_path, "ground_truth/ko/0000.png", "ground_truth/ko/0001.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "btad"
    assert [(sample.name, sample.label) for sample in dataset.train] == [("train/ok/0000.bmp", "good")]
    assert _labels(dataset) == {"test/ok/0000.bmp": "good", "test/ko/0000.bmp": "ko", "test/ko/0001.bmp": "ko"}
    assert _masks(dataset) == {
        "test/ko/0000.bmp": "ground_truth/ko/0000.png",
        "test/ko/0001.bmp": "ground_truth/ko/0001.png",
    }


@pytest.mark.parametrize("made", [("train/ok/0.png", "test/nok/0.png"), ("train/good/0.png", "test/ko/0.png")])
def test_what_says_ok_or_ko_alone_is_not_taken_for_btad(tmp_path: Path, made: tuple[str, ...]) -> None:
    _touch(tmp_path, *made)
    assert find_dataset(tmp_path).layout == "mvtec"


def test_visa_is_split_by_its_table(tmp_path: Path) -> None:
    _visa(tmp_path)
    dataset = find_dataset(tmp_path / "pcb1")
    assert (dataset.name, dataset.layout) == ("pcb1", "visa")
    assert [sample.name for sample in dataset.train] == ["Data/Images/Normal/001.JPG", "Data/Images/Normal/003.JPG"]
    assert _labels(dataset) == {"Data/Images/Anomaly/000.JPG": "anomaly", "Data/Images/Normal/002.JPG": "good"}
    assert _masks(dataset) == {"Data/Images/Anomaly/000.JPG": "Data/Masks/Anomaly/000.png"}
    assert all(sample.path.read_bytes() for sample in (*dataset.train, *dataset.test))
    assert [found.name for found in find_datasets(tmp_path)] == ["candle", "pcb1"]


def test_visa_converted_to_the_mvtec_layout(tmp_path: Path) -> None:
    _touch(tmp_path, "train/good/0001.JPG", "test/good/0002.JPG", "test/bad/000.JPG", "ground_truth/bad/000.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "mvtec"
    assert _labels(dataset) == {"test/bad/000.JPG": "bad", "test/good/0002.JPG": "good"}
    assert _masks(dataset) == {"test/bad/000.JPG": "ground_truth/bad/000.png"}


def test_what_is_wrong_with_the_table_of_visa_is_said(tmp_path: Path) -> None:
    _visa(tmp_path / "gone", "pcb1,train,normal,pcb1/Data/Images/Normal/009.JPG,")
    _visa(tmp_path / "odd", "pcb1,train,normal,pcb1/Data/Images/Normal/001.JPG,", "pcb1,train,maybe,x.JPG,")
    _visa(tmp_path / "empty", "candle,train,normal,candle/Data/Images/Normal/001.JPG,")
    _visa(tmp_path / "other", "a,b", header="image,label")
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


def test_good_images_beside_defects_are_split_by_their_names(tmp_path: Path) -> None:
    good = [f"OK/lot{index % 2}/{index:03d}.png" for index in range(20)]
    _touch(tmp_path, *good, "chip/lot0/1.png", "dust/1.png", "dust/2.png")
    _touch(tmp_path, "masks/chip/lot0/1_mask.png", "masks/dust/2.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "folder"
    tested = {name for name, label in _labels(dataset).items() if label == "good"}
    assert len(tested) == 4
    assert {sample.name for sample in dataset.train} == set(good) - tested
    defects = {name: label for name, label in _labels(dataset).items() if label != "good"}
    assert defects == {"chip/lot0/1.png": "chip", "dust/1.png": "dust", "dust/2.png": "dust"}
    assert _masks(dataset) == {"chip/lot0/1.png": "masks/chip/lot0/1_mask.png", "dust/2.png": "masks/dust/2.png"}
    _touch(tmp_path, "OK/new.png")
    moved = {sample.name for sample in find_dataset(tmp_path).test if not sample.defective} ^ tested
    assert len(moved - {"OK/new.png"}) <= 1


def test_masks_of_the_only_defect_need_no_folder_of_their_own(tmp_path: Path) -> None:
    _touch(tmp_path, "good/1.png", "good/2.png", "nok/1.png", "ground_truth/1.png")
    dataset = find_dataset(tmp_path)
    assert _masks(dataset) == {"nok/1.png": "ground_truth/1.png"}
    assert len(dataset.train) == 1
    _touch(tmp_path, "dent/1.png")
    with pytest.raises(DataError, match="masks of no image"):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("good/1.png", "nok/1.png"), "too few good images beside its defects, 1; at least 2"),
        (
            ("good/1.png", "good/2.png", "nok/1.png", "3.png"),
            r"1 file in .* beside its folders of good and defective",
        ),
        (("good/1.png", "good/2.png", "nok/1.png", "masks/nok/2.png"), "masks of no image"),
    ],
)
def test_plain_folders_that_say_too_little(tmp_path: Path, made: tuple[str, ...], message: str) -> None:
    _touch(tmp_path, *made)
    with pytest.raises(DataError, match=message):
        find_dataset(tmp_path)


def test_a_folder_of_good_images_without_defects_is_only_good(tmp_path: Path) -> None:
    _touch(tmp_path, "good/1.png", "notes/list.txt")
    dataset = find_dataset(tmp_path)
    assert [sample.name for sample in dataset.train] == ["good/1.png"]
    assert dataset.test == ()


@pytest.mark.parametrize(
    ("made", "folders"),
    [
        (("chip/1.png", "fine/deep/1.png"), ("chip", "fine")),
        (("chip/1.png", "1.png"), ()),
        (("lot1/OK/1.png", "lot2/2.png"), ()),
        (("good/1.png", "good/2.png", "chip/1.png"), ()),
        (("train/good/1.png",), ()),
    ],
)
def test_folders_that_nothing_calls_good_are_named(
    tmp_path: Path, made: tuple[str, ...], folders: tuple[str, ...]
) -> None:
    _touch(tmp_path, *made)
    assert folders_taken_as_good(find_dataset(tmp_path)) == folders


def test_masks_are_not_taken_for_good_images(tmp_path: Path) -> None:
    _touch(tmp_path, "good/1.png", "2.png", "masks/dent/3.png")
    assert [sample.name for sample in find_dataset(tmp_path).train] == ["2.png", "good/1.png"]


def test_all_data_sets_right_below_a_folder_are_found(tmp_path: Path) -> None:
    _touch(tmp_path, "bottle/train/good/1.png", "01/train/ok/1.png", "01/test/ko/1.png", "readme.txt")
    _touch(tmp_path, "mine/good/1.png", "mine/good/2.png", "mine/bad/1.png", "licence/terms.txt")
    assert [dataset.name for dataset in find_datasets(tmp_path)] == ["01", "bottle", "mine"]
    assert find_datasets(tmp_path / "01") == [find_dataset(tmp_path / "01")]
    _touch(tmp_path, "plain/1.png")
    assert find_datasets(tmp_path / "plain") == [find_dataset(tmp_path / "plain")]
    with pytest.raises(DataError, match="does not exist"):
        find_datasets(tmp_path / "none")


def test_data_sets_further_down_are_not_taken_for_good_images(tmp_path: Path) -> None:
    _touch(tmp_path, "visa/1cls/candle/train/good/1.png", "visa/1cls/candle/test/bad/1.png")
    for find in (find_dataset, find_datasets):
        with pytest.raises(DataError, match=r"further down; name the folder above them: .*1cls.candle"):
            find(tmp_path)


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2), (10, 0.99, 9), (114, 0.15, 17)]
)
def test_holdout_sizes(tmp_path: Path, count: int, fraction: float, held_out: int) -> None:
    samples = _samples(tmp_path, count)
    train, holdout = split_holdout(samples, fraction, seed=0)
    assert (len(train), len(holdout)) == (count - held_out, held_out)
    assert sorted([*train, *holdout], key=lambda sample: sample.name) == samples
    assert list(holdout) == sorted(holdout, key=lambda sample: sample.name)


@pytest.mark.parametrize("fraction", [0.01, 0.15, 1 / 6, 0.4, 0.5, 0.99])
@pytest.mark.parametrize("size", [2, 3, 10])
def test_images_to_hold_out_are_the_fewest_that_do(size: int, fraction: float) -> None:
    images = images_to_hold_out(size, fraction)
    assert holdout_size(images, fraction) >= size
    assert all(holdout_size(fewer, fraction) < size for fewer in range(2, images))


def test_the_seed_decides_the_holdout(tmp_path: Path) -> None:
    samples = _samples(tmp_path, 40)
    assert split_holdout(samples, 0.25, seed=3) == split_holdout(samples, 0.25, seed=3)
    assert len({split_holdout(samples, 0.25, seed=seed)[1] for seed in range(5)}) == 5


def test_a_split_needs_two_images_and_a_real_fraction(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least 2 good images.*only .*000.png"):
        split_holdout(_samples(tmp_path, 1), 0.5, 0)
    with pytest.raises(DataError, match="got 0"):
        split_holdout([], 0.5, 0)
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split_holdout(_samples(tmp_path, 3), fraction, 0)


def test_the_fingerprint_is_of_names_and_contents_not_of_places(tmp_path: Path) -> None:
    here, there = _samples(tmp_path / "here", 3), _samples(tmp_path / "there", 3)
    first = fingerprint(here)
    assert len(first) == 64
    assert fingerprint(there) == fingerprint(reversed(here)) == first
    assert fingerprint(here[:2]) != first
    renamed = Sample(here[2].path, "other.png")
    assert fingerprint([*here[:2], renamed]) != first
    here[1].path.write_bytes(b"altered")
    assert fingerprint(here) != first


def test_a_fingerprint_lists_every_file_that_is_gone(tmp_path: Path) -> None:
    samples = _samples(tmp_path, 30)
    for sample in samples[:25]:
        sample.path.unlink()
    with pytest.raises(DataError, match=r"25 files cannot be read") as caught:
        fingerprint(samples)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].strip() == "and 5 more"
    assert str(samples[0].path) in lines[1]
