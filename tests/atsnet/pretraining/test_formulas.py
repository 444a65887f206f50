from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from atsnet.pretraining import formulas
from atsnet.pretraining.formulas import TILE, texture_bank

CLASSES = 8


@pytest.fixture(scope="module")
def bank() -> NDArray[np.uint8]:
    return texture_bank(CLASSES, 2, seed=3)


def rng(*entropy: int) -> np.random.Generator:
    return np.random.default_rng(entropy)


def test_tiles_have_the_announced_kind_and_levels(bank: NDArray[np.uint8]) -> None:
    assert bank.shape == (CLASSES, 2, TILE, TILE)
    assert bank.dtype == np.uint8
    means, deviations = bank.mean(axis=(2, 3)), bank.std(axis=(2, 3))
    assert np.abs(means - 128).max() < 15
    assert deviations.min() > 20
    assert deviations.max() < 55


def test_the_seed_fixes_formulas_and_samples(bank: NDArray[np.uint8]) -> None:
    assert np.array_equal(texture_bank(2, 2, seed=3), bank[:2])  # a larger bank begins with the smaller one
    assert not np.array_equal(texture_bank(1, 1, seed=4)[0], bank[0, :1])


def test_tiles_of_a_class_are_different_samples(bank: NDArray[np.uint8]) -> None:
    for first, second in bank.astype(float):
        correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
        assert correlation < 0.9


def fingerprint(tile: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Log spectrum in coarse cells of radius and angle, and histogram: what a formula fixes and a sample does not."""
    spectrum = np.abs(np.fft.fft2(tile - tile.mean())) ** 2
    frequency = np.fft.fftfreq(TILE)
    radius = np.hypot(frequency[:, None], frequency[None])
    angle = np.mod(np.arctan2(frequency[:, None], np.broadcast_to(frequency[None], (TILE, TILE))), np.pi)
    cell = np.digitize(np.log2(radius + 1e-9), np.arange(-7, -1)) * 6 + np.minimum(angle / np.pi * 6, 5).astype(int)
    power = np.bincount(cell.ravel(), spectrum.ravel()) / np.maximum(np.bincount(cell.ravel()), 1)
    histogram = np.histogram(tile, 16, (0, 256))[0] / tile.size
    return np.concatenate([np.log(power + 1), 10 * histogram])


def test_tiles_of_one_formula_are_closer_to_each_other_than_to_those_of_others(bank: NDArray[np.uint8]) -> None:
    prints = np.array([[fingerprint(tile) for tile in tiles] for tiles in bank])
    distances = np.linalg.norm(prints[:, None, 0] - prints[None, :, 1], axis=2)  # first tiles against second ones
    others = distances[~np.eye(CLASSES, dtype=bool)]
    assert np.diag(distances).mean() < 0.6 * others.mean()
    assert (distances.argmin(axis=1) == np.arange(CLASSES)).mean() > 0.5  # chance is one in eight


def roughness_at_seam(tile: NDArray[np.float32]) -> float:
    """How much neighbours differ over the tile's edges, in units of the roughest line of neighbours inside."""
    rows, columns = np.abs(np.diff(tile, axis=0)).mean(axis=1), np.abs(np.diff(tile, axis=1)).mean(axis=0)
    return max(
        float(np.abs(tile[0] - tile[-1]).mean() / rows.max()),
        float(np.abs(tile[:, 0] - tile[:, -1]).mean() / columns.max()),
    )


@pytest.mark.parametrize(
    "family", [formulas._filtered_noise, formulas._warped, formulas._dead_leaves, formulas._lattice]
)
@pytest.mark.parametrize("number", range(4))
def test_tiles_wrap_around_without_a_seam(
    family: Callable[[np.random.Generator, np.random.Generator], NDArray[np.float32]], number: int
) -> None:
    tile = family(rng(number), rng(number, 1))
    assert tile.shape == (TILE, TILE)
    assert roughness_at_seam(tile) < 1.05
    # The measure sees a seam where there is one.
    assert roughness_at_seam(tile[: TILE // 2 + 5, : TILE // 2 + 5]) > roughness_at_seam(tile)


@pytest.mark.parametrize("family", formulas._FAMILIES)
def test_every_family_draws_the_same_formula_for_every_sample(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the formula's stream is asked for may not depend on the sample, or tiles of a class would differ in kind."""
    monkeypatch.setattr(formulas, "_FAMILY_SHARES", tuple(float(name == family) for name in formulas._FAMILIES))
    for number in range(3):
        first, second = rng(number), rng(number)
        formulas._texture(first, rng(number, 1))
        formulas._texture(second, rng(number, 2))
        assert first.random() == second.random()
