from pathlib import Path

import pytest
from dataset_files import write_samples

from atsnet.data.layout import DataError, holdout_size, images_to_hold_out, split_holdout


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2), (10, 0.99, 9), (114, 0.15, 17)]
)
def test_holdout_sizes(tmp_path: Path, count: int, fraction: float, held_out: int) -> None:
    samples = write_samples(tmp_path, count)
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
    samples = write_samples(tmp_path, 40)
    assert split_holdout(samples, 0.25, seed=3) == split_holdout(samples, 0.25, seed=3)
    assert len({split_holdout(samples, 0.25, seed=seed)[1] for seed in range(5)}) == 5


def test_a_split_needs_two_images_and_a_real_fraction(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least 2 good images.*only .*000.png"):
        split_holdout(write_samples(tmp_path, 1), 0.5, 0)
    with pytest.raises(DataError, match="got 0"):
        split_holdout([], 0.5, 0)
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split_holdout(write_samples(tmp_path, 3), fraction, 0)
