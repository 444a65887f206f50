from pathlib import Path

import pytest
from dataset_files import labels, masks, touch

from atsnet.data.layout import DataError, find_dataset, folders_taken_as_good


def test_a_plain_folder_holds_good_images_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "z.png", "lot2/b.tif", "lot1/deep/a.bmp", ".trash/x.png", "lot1/.x.png", "lot1/list.csv")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "folder"
    assert [sample.name for sample in dataset.train] == ["lot1/deep/a.bmp", "lot2/b.tif", "z.png"]
    assert dataset.test == ()


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root, "a.png")
    touch(elsewhere, "b.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "itself").symlink_to(root)
    assert [sample.name for sample in find_dataset(root).train] == ["a.png", "linked/b.png"]


def test_good_images_beside_defects_are_split_by_their_names(tmp_path: Path) -> None:
    good = [f"OK/lot{index % 2}/{index:03d}.png" for index in range(20)]
    touch(tmp_path, *good, "chip/lot0/1.png", "dust/1.png", "dust/2.png")
    touch(tmp_path, "masks/chip/lot0/1_mask.png", "masks/dust/2.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "folder"
    tested = {name for name, label in labels(dataset).items() if label == "good"}
    assert len(tested) == 4
    assert {sample.name for sample in dataset.train} == set(good) - tested
    defects = {name: label for name, label in labels(dataset).items() if label != "good"}
    assert defects == {"chip/lot0/1.png": "chip", "dust/1.png": "dust", "dust/2.png": "dust"}
    assert masks(dataset) == {"chip/lot0/1.png": "masks/chip/lot0/1_mask.png", "dust/2.png": "masks/dust/2.png"}
    touch(tmp_path, "OK/new.png")
    moved = {sample.name for sample in find_dataset(tmp_path).test if not sample.defective} ^ tested
    assert len(moved - {"OK/new.png"}) <= 1


def test_masks_of_the_only_defect_need_no_folder_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "good/2.png", "nok/1.png", "ground_truth/1.png")
    dataset = find_dataset(tmp_path)
    assert masks(dataset) == {"nok/1.png": "ground_truth/1.png"}
    assert len(dataset.train) == 1
    touch(tmp_path, "dent/1.png")
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
    touch(tmp_path, *made)
    with pytest.raises(DataError, match=message):
        find_dataset(tmp_path)


def test_a_folder_of_good_images_without_defects_is_only_good(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "notes/list.txt")
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
    touch(tmp_path, *made)
    assert folders_taken_as_good(find_dataset(tmp_path)) == folders


def test_masks_are_not_taken_for_good_images(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "2.png", "masks/dent/3.png")
    assert [sample.name for sample in find_dataset(tmp_path).train] == ["2.png", "good/1.png"]
