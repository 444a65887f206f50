from pathlib import Path

import pytest
from dataset_files import labels, masks, touch, write_mask

from atsnet.data.grains import write_grain_set
from atsnet.data.layout import DataError, find_dataset, find_datasets


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
    touch(tmp_path, "train/good/a.png", "train/good/.hidden.png", "train/good/notes.txt", "train/good/b.JPG")
    touch(tmp_path, "test/dent/1.png", "test/.cache/1.png", "test/readme.png", "ground_truth/dent/1_mask.png")
    (tmp_path / "train/good/folder.png").mkdir()
    dataset = find_dataset(tmp_path)
    assert [sample.name for sample in dataset.train] == ["train/good/a.png", "train/good/b.JPG"]
    assert [sample.name for sample in dataset.test] == ["test/dent/1.png"]


def test_a_defective_image_without_a_mask_is_kept_and_reported(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/a.png", "test/dent/1.png", "test/dent/2.png", "ground_truth/dent/2_mask.png")
    dataset = find_dataset(tmp_path)
    assert [sample.name for sample in dataset.unmasked] == ["test/dent/1.png"]
    assert dataset.test[1].mask == tmp_path / "ground_truth/dent/2_mask.png"


def test_masks_of_no_image_are_an_error_that_lists_them(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/a.png", "test/dent/1.png", "ground_truth/dent/1_mask.png")
    touch(tmp_path, "ground_truth/dent/7_mask.png", "ground_truth/rust/1_mask.png")
    with pytest.raises(DataError) as caught:
        find_dataset(tmp_path)
    message = str(caught.value)
    assert message.startswith("2 files under ")
    assert str(tmp_path / "ground_truth/dent/7_mask.png") in message
    assert str(tmp_path / "ground_truth/rust/1_mask.png") in message
    assert "dent/1_mask" not in message


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
    touch(tmp_path, *made)
    write_mask(tmp_path / masks / "2_mask.png", level=0)
    assert all(sample.mask is None for sample in find_dataset(tmp_path).test)
    write_mask(tmp_path / masks / "1_mask.png", level=1)
    with pytest.raises(DataError, match=r"(?s)1 file with a defect marked on a good image.*1_mask\.png") as caught:
        find_dataset(tmp_path)
    assert "2_mask" not in str(caught.value)
    (tmp_path / masks / "1_mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1_mask\.png"):
        find_dataset(tmp_path)


def test_two_images_for_one_mask_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/a.png", "test/dent/1.png", "test/dent/1.jpg", "ground_truth/dent/1_mask.png")
    with pytest.raises(DataError, match="several images for one mask: 1"):
        find_dataset(tmp_path)


@pytest.mark.parametrize("made", ["train/good/notes.txt", "train/bad/1.png"])
def test_no_good_images_to_train_on(tmp_path: Path, made: str) -> None:
    touch(tmp_path, made, "test/good/1.png")
    with pytest.raises(DataError, match=str(tmp_path / "train" / "good")):
        find_dataset(tmp_path)


def test_several_data_sets_are_not_one_folder_of_good_images(tmp_path: Path) -> None:
    touch(tmp_path, "bottle/train/good/1.png", "bottle/test/broken/1.png", "cable/train/good/1.png")
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
    touch(tmp_path, "train/good/000_regular.png", "validation/good/001_regular.png")
    touch(tmp_path, "test_public/good/000_regular.png", "test_public/good/000_shift_1.png")
    touch(tmp_path, "test_public/bad/000_regular.png", "test_public/ground_truth/bad/000_regular_mask.png")
    touch(tmp_path, "test_private/000_regular.png", "test_private_mixed/000_mixed.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "mvtec-ad-2"
    assert [sample.name for sample in dataset.train] == [
        "train/good/000_regular.png",
        "validation/good/001_regular.png",
    ]
    assert labels(dataset) == {
        "test_public/bad/000_regular.png": "bad",
        "test_public/good/000_regular.png": "good",
        "test_public/good/000_shift_1.png": "good",
    }
    assert masks(dataset) == {"test_public/bad/000_regular.png": "test_public/ground_truth/bad/000_regular_mask.png"}


def test_btad_calls_good_images_ok_and_masks_as_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "test/ko/0001.bmp")
    touch(tmp_path, "ground_truth/ko/0000.png", "ground_truth/ko/0001.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "btad"
    assert [(sample.name, sample.label) for sample in dataset.train] == [("train/ok/0000.bmp", "good")]
    assert labels(dataset) == {"test/ok/0000.bmp": "good", "test/ko/0000.bmp": "ko", "test/ko/0001.bmp": "ko"}
    assert masks(dataset) == {
        "test/ko/0000.bmp": "ground_truth/ko/0000.png",
        "test/ko/0001.bmp": "ground_truth/ko/0001.png",
    }


@pytest.mark.parametrize("made", [("train/ok/0.png", "test/nok/0.png"), ("train/good/0.png", "test/ko/0.png")])
def test_what_says_ok_or_ko_alone_is_not_taken_for_btad(tmp_path: Path, made: tuple[str, ...]) -> None:
    touch(tmp_path, *made)
    assert find_dataset(tmp_path).layout == "mvtec"


def test_all_data_sets_right_below_a_folder_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "bottle/train/good/1.png", "01/train/ok/1.png", "01/test/ko/1.png", "readme.txt")
    touch(tmp_path, "mine/good/1.png", "mine/good/2.png", "mine/bad/1.png", "licence/terms.txt")
    assert [dataset.name for dataset in find_datasets(tmp_path)] == ["01", "bottle", "mine"]
    assert find_datasets(tmp_path / "01") == [find_dataset(tmp_path / "01")]
    touch(tmp_path, "plain/1.png")
    assert find_datasets(tmp_path / "plain") == [find_dataset(tmp_path / "plain")]
    with pytest.raises(DataError, match="does not exist"):
        find_datasets(tmp_path / "none")


def test_data_sets_further_down_are_not_taken_for_good_images(tmp_path: Path) -> None:
    touch(tmp_path, "visa/1cls/candle/train/good/1.png", "visa/1cls/candle/test/bad/1.png")
    for find in (find_dataset, find_datasets):
        with pytest.raises(DataError, match=r"further down; name the folder above them: .*1cls.candle"):
            find(tmp_path)
