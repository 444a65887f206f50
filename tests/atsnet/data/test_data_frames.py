from pathlib import Path

import cv2
import numpy as np
import pytest

from atsnet.data.frames import detect_color, load_frames, load_masks
from atsnet.data.grains import write_grain_set
from atsnet.data.layout import DataError, Sample, find_dataset
from atsnet.imaging import InputGeometry, Roi, read_image, to_frame

MONO = InputGeometry(height=64, width=64, color="mono")


def _write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def _sample(path: Path, image: np.ndarray, label: str = "good", mask: np.ndarray | None = None) -> Sample:
    mask_path = None if mask is None else _write(path.with_name(path.stem + "_mask.png"), mask)
    return Sample(_write(path, image), path.name, label, mask_path)


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("color", ["mono", "rgb"])
def test_frames_are_those_of_imaging_in_the_order_given(tmp_path: Path, color: str) -> None:
    geometry = InputGeometry.model_validate({"height": 64, "width": 96, "color": color})
    samples = [_sample(tmp_path / f"{index}.png", _noise(40 + index, 90, index)) for index in range(20)]
    calls: list[tuple[int, int]] = []
    frames = load_frames(samples, geometry, progress=lambda done, total: calls.append((done, total)))
    assert frames.pixels.shape == (20, *geometry.frame_shape)
    assert frames.pixels.dtype == np.uint8
    assert frames.sizes == tuple((40 + index, 90) for index in range(20))
    assert calls == [(done, 20) for done in range(1, 21)]
    for index, sample in enumerate(samples):
        expected = to_frame(read_image(sample.path), geometry)
        np.testing.assert_array_equal(frames.pixels[index], expected.pixels)
        assert frames.placements[index] == expected.placement


def test_no_images_make_no_frames() -> None:
    assert load_frames([], MONO).pixels.shape == (0, 64, 64, 2)


def test_a_region_of_interest_is_cut_from_every_image(tmp_path: Path) -> None:
    samples = [_sample(tmp_path / f"{index}.png", _noise(100, 120, index)) for index in range(2)]
    roi = Roi(x=20, y=30, width=64, height=64)
    frames = load_frames(samples, MONO, roi=roi)
    assert [placement.roi for placement in frames.placements] == [roi, roi]
    np.testing.assert_array_equal(frames.pixels[1, :, :, 0], _noise(100, 120, 1)[30:94, 20:84])


def test_all_unusable_images_are_listed_with_their_reasons(tmp_path: Path) -> None:
    samples = [_sample(tmp_path / f"{index}.png", _noise(80, 80)) for index in range(6)]
    samples[1].path.write_bytes(b"")
    samples[3].path.write_bytes(samples[3].path.read_bytes()[:-20])
    samples[4].path.unlink()
    _write(samples[5].path, _noise(20, 20))
    with pytest.raises(DataError) as caught:
        load_frames(samples, MONO, roi=Roi(x=0, y=0, width=64, height=64))
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 files cannot be used:"
    expected = {1: "empty", 3: "cut short", 4: "No such file", 5: "reaches over the edge of the 20x20 image"}
    for line, (index, reason) in zip(lines[1:], expected.items(), strict=True):
        assert line.strip().startswith(str(samples[index].path))
        assert reason in line


def test_a_long_list_is_capped_and_counted(tmp_path: Path) -> None:
    samples = [Sample(tmp_path / f"{index}.png", f"{index}.png") for index in range(23)]
    with pytest.raises(DataError) as caught:
        load_frames(samples, MONO)
    lines = str(caught.value).splitlines()
    assert lines[0] == "23 files cannot be used:"
    assert len(lines) == 22
    assert lines[-1].strip() == "and 3 more"


def test_large_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "a.png", _noise(50, 50))
    with pytest.raises(DataError, match="at most 2000 are allowed"):
        load_frames([sample], MONO, max_pixels=2000)


def test_masks_of_a_grain_set(tmp_path: Path) -> None:
    write_grain_set(tmp_path, train=1, good=2, defects=5, size=64)
    samples = find_dataset(tmp_path).test
    masks = load_masks(samples, [(64, 64)] * len(samples))
    for sample, mask in zip(samples, masks, strict=True):
        assert mask is not None
        assert mask.dtype == np.bool_
        assert mask.shape == (64, 64)
        assert mask.any() == sample.defective
        if sample.mask:
            np.testing.assert_array_equal(mask, read_image(sample.mask) > 0)


def test_a_coloured_mask_is_where_any_channel_is_set(tmp_path: Path) -> None:
    painted = np.zeros((8, 9, 3), np.uint8)
    painted[2, 3] = (0, 0, 255)
    painted[4, 5] = (1, 0, 0)
    mask = load_masks([_sample(tmp_path / "a.png", _noise(8, 9), "dent", painted)], [(8, 9)])[0]
    assert mask is not None
    assert [tuple(position) for position in np.argwhere(mask)] == [(2, 3), (4, 5)]


def test_an_unknown_mask_is_not_an_empty_one(tmp_path: Path) -> None:
    unknown = _sample(tmp_path / "a.png", _noise(8, 9), "dent")
    empty = _sample(tmp_path / "b.png", _noise(8, 9), "dent", np.zeros((8, 9), np.uint8))
    first, second = load_masks([unknown, empty], [(8, 9), (8, 9)])
    assert first is None
    assert second is not None
    assert not second.any()


def test_masks_of_another_size_than_their_images_are_all_listed(tmp_path: Path) -> None:
    samples = [
        _sample(tmp_path / f"{index}.png", _noise(30, 40), "dent", np.zeros(shape, np.uint8))
        for index, shape in enumerate([(30, 40), (40, 30), (15, 20)])
    ]
    with pytest.raises(DataError) as caught:
        load_masks(samples, [(30, 40)] * 3)
    message = str(caught.value)
    assert message.startswith("2 files")
    assert "1_mask.png: the mask has 30x40 pixels, but its image 1.png has 40x30" in message
    assert "2_mask.png: the mask has 20x15 pixels" in message


def test_color_is_found_by_the_pixels_not_by_the_file(tmp_path: Path) -> None:
    grey = _noise(20, 20)
    samples = [
        _sample(tmp_path / "one-channel.png", grey),
        _sample(tmp_path / "equal-channels.png", np.dstack([grey, grey, grey])),
    ]
    assert detect_color(samples) == "mono"
    tinted = np.dstack([grey, grey, grey])
    tinted[7, 7, 2] ^= 1
    assert detect_color([*samples, _sample(tmp_path / "tinted.png", tinted)]) == "rgb"


def test_color_looks_at_a_spread_of_the_images(tmp_path: Path) -> None:
    grey = _noise(20, 20)
    samples = [_sample(tmp_path / f"{index}.png", grey) for index in range(9)]
    last = _sample(tmp_path / "last.png", np.dstack([grey, grey, 255 - grey]))
    assert detect_color([*samples, last], limit=3) == "rgb"
    assert detect_color([samples[0], last, *samples[1:]], limit=3) == "mono"


def test_color_passes_over_unreadable_images_unless_all_are(tmp_path: Path) -> None:
    missing = Sample(tmp_path / "missing.png", "missing.png")
    assert detect_color([missing, _sample(tmp_path / "a.png", _noise(20, 20))]) == "mono"
    with pytest.raises(DataError, match=r"missing\.png"):
        detect_color([missing])
    with pytest.raises(DataError, match="no images"):
        detect_color([])
