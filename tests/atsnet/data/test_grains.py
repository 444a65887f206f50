import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from atsnet.data.grains import CONTRAST_FLOOR, DEFECTS, GENERATOR_VERSION, HOLDERS, render_grain, write_grain_set
from atsnet.data.grains.part import make_part
from atsnet.data.grains.render import TEXTURE_SHARE

SEED = 7


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    return cv2.dilate(mask, np.ones((side, side), np.uint8)) > 0


def test_the_defects_the_field_knows() -> None:
    assert DEFECTS == ("crack", "chip", "pit", "contamination", "scratch")


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("defect", [None, *DEFECTS])
def test_shape_and_dtype(defect: str | None, size: int) -> None:
    grain = render_grain(SEED, defect, size)
    for array in (grain.image, grain.mask):
        assert array.shape == (size, size)
        assert array.dtype == np.uint8
    assert set(np.unique(grain.mask)) <= {0, 255}
    assert grain.defect == defect
    assert 0 <= grain.severity <= 1


@pytest.mark.parametrize("defect", [None, *DEFECTS])
def test_same_seed_same_bytes_whatever_came_before(defect: str | None) -> None:
    first = render_grain(SEED, defect, 128, index=3)
    for other in DEFECTS:
        render_grain(SEED + 1, other, 64)
    again = render_grain(SEED, defect, 128, index=3)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert first.severity == again.severity


def test_rendering_does_not_depend_on_where_arrays_lie_in_memory() -> None:
    first: dict[int, bytes] = {}
    kept: list[bytearray] = []
    for repeat in range(4):
        for index in range(12):
            part = make_part(np.random.default_rng(index), 128, "dark")
            assert first.setdefault(index, part.reflectance.tobytes()) == part.reflectance.tobytes()
            kept.append(bytearray(1000 + 4936 * index * repeat))


def test_another_seed_or_index_is_another_part() -> None:
    images = [render_grain(seed, size=64, index=index).image for seed, index in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({image.tobytes() for image in images}) == len(images)


def test_good_parts_vary_more_than_the_sensor_does() -> None:
    images = np.stack([render_grain(SEED, size=128, index=index).image for index in range(8)]).astype(np.float32)
    inner = images[:, 32:96, 32:96]
    assert inner.std(axis=0).mean() > 6
    assert inner.std(axis=(1, 2)).min() > 3


def test_a_good_part_has_an_empty_mask() -> None:
    grain = render_grain(SEED)
    assert grain.defect is None
    assert grain.severity == 0
    assert not grain.mask.any()


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_where_the_mask_says_and_visible_there(defect: str) -> None:
    for index in range(25):
        size = 128 if index % 2 else 256
        grain = render_grain(SEED, defect, size, index=index)
        good = render_grain(SEED, None, size, index=index)
        change = np.abs(grain.image.astype(int) - good.image)
        assert change[grain.mask > 0].mean() >= CONTRAST_FLOOR
        assert not change[~_dilated(grain.mask, 6 * size // 256 + 1)].any()


@pytest.mark.parametrize("defect", ["scratch", "pit", "contamination"])
def test_defects_are_not_lost_in_the_texture_around_them(defect: str) -> None:
    for index in range(25):
        grain = render_grain(SEED, defect, index=index)
        good = render_grain(SEED, index=index).image.astype(int)
        around = _dilated(grain.mask, 8) & (cv2.erode((good > 60).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0)
        contrast = np.abs(grain.image - good)[grain.mask > 0].mean()
        assert contrast > 0.85 * TEXTURE_SHARE * good[around].std()


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_lie_on_the_part(defect: str) -> None:
    for index in range(25):
        stream = np.random.SeedSequence(SEED, spawn_key=(index,)).spawn(3)[0]
        part = make_part(np.random.default_rng(stream), 128, "dark")
        mask = render_grain(SEED, defect, 128, index=index).mask > 0
        assert mask.any()
        assert (part.coverage[mask] > 0.5).all()
        assert mask.sum() < 0.2 * (part.coverage > 0.5).sum()


def test_chips_reach_the_edge_of_the_part() -> None:
    stream = np.random.SeedSequence(SEED, spawn_key=(0,)).spawn(3)[0]
    part = make_part(np.random.default_rng(stream), 256, "dark")
    assert part.coverage[_dilated(render_grain(SEED, "chip", 256).mask, 2)].min() < 0.5


def test_severity_leans_to_the_subtle_end_without_stopping_there() -> None:
    severities = np.array([render_grain(SEED, "scratch", 64, index=index).severity for index in range(60)])
    assert np.median(severities) < 0.5
    assert severities.max() > 0.7


def test_the_part_is_brighter_than_a_dark_holder_and_darker_than_a_bright_one() -> None:
    levels = {holder: render_grain(SEED, size=128, holder=holder).image.astype(float) for holder in HOLDERS}
    assert levels["dark"][:4].mean() + 40 < levels["dark"][40:88, 40:88].mean()
    assert levels["bright"][:4].mean() - 30 > levels["bright"][40:88, 40:88].mean()


def test_a_larger_picture_shows_the_same_scene() -> None:
    small, large = render_grain(SEED, "crack", 128), render_grain(SEED, "crack", 256)
    shrunk = cv2.resize(large.image, (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small.image).mean() < 4
    assert (_dilated(cv2.resize(large.mask, (128, 128)), 2) >= (small.mask > 0)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 0, "defect": "dent"}, "unknown grain defect 'dent'; have: crack"),
        ({"seed": 0, "size": 32}, "size 32 is too small"),
        ({"seed": -1}, "must not be negative"),
        ({"seed": 0, "index": -1}, "must not be negative"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_grain(**arguments)  # type: ignore[arg-type]


def test_a_set_on_disk(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    directory = tmp_path / "new" / "grains"
    counts = write_grain_set(
        directory, train=3, good=2, defects=7, seed=5, size=64, progress=lambda done, total: calls.append((done, total))
    )
    each = {"crack": 2, "chip": 2, "pit": 1, "contamination": 1, "scratch": 1}
    assert counts.defects == each
    assert calls == [(done, 12) for done in range(1, 13)]
    expected = {"grains.json", *(f"train/good/{n:03d}.png" for n in range(3))}
    expected |= {f"test/good/{n:03d}.png" for n in range(2)}
    for name, count in each.items():
        for number in range(count):
            expected |= {f"test/{name}/{number:03d}.png", f"ground_truth/{name}/{number:03d}_mask.png"}
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    assert set(files) == expected

    pictures = {name: path.read_bytes() for name, path in files.items() if not name.startswith("ground_truth")}
    assert len(set(pictures.values())) == len(pictures)
    for name, path in files.items():
        if path.suffix == ".png":
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert picture is not None
            assert picture.shape == (64, 64)
            assert name.startswith("ground_truth") == (set(np.unique(picture)) == {0, 255})
    assert json.loads(files["grains.json"].read_text()) == {
        "generator_version": GENERATOR_VERSION,
        "seed": 5,
        "size": 64,
        "holder": "dark",
        "train": 3,
        "good": 2,
        "defects": each,
    }


def test_no_part_is_in_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []

    def recording(seed: int, *args: object, index: int, **options: object) -> object:
        drawn.append((seed, index))
        return render_grain(seed, *args, index=index, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("atsnet.data.grains.write.render_grain", recording)
    write_grain_set(tmp_path, train=4, good=3, defects=5, size=64)
    assert len(set(drawn)) == len(drawn) == 12


def test_the_same_set_twice_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_grain_set(tmp_path / name, train=2, good=1, defects=5, seed=3, size=64)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        write_grain_set(tmp_path, train=1, good=0, defects=0, size=64)
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        write_grain_set(tmp_path / "notes.txt", train=1, good=0, defects=0, size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_negative_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train -1"):
        write_grain_set(tmp_path / "set", train=-1)
    assert not (tmp_path / "set").exists()
