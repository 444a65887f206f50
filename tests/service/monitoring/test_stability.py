import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from atsnet.reference import gaps
from service.monitoring.stability import StabilityWindow, chi_square_limit, chi_square_tail, psi, psi_limit


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 11, 20])
@pytest.mark.parametrize("chance", [0.5, 0.01, 1e-4, 1e-7])
def test_chi_square_as_of_scipy(degrees: int, chance: float) -> None:
    limit = chi_square_limit(degrees, chance)
    assert limit == pytest.approx(stats.chi2.isf(chance, degrees), rel=1e-9)
    assert chi_square_tail(degrees, limit) == pytest.approx(chance, rel=1e-6)


def test_by_hand() -> None:
    found = psi([1, 3], [0.5, 0.5])
    assert found == pytest.approx((0.3 - 0.5) * math.log(0.6) + (0.7 - 0.5) * math.log(1.4))
    assert psi([50, 50], [0.5, 0.5]) == 0
    assert math.isfinite(psi([0, 100], [0.5, 0.5]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 20))
def test_the_window_holds_the_last(indices: list[int], size: int) -> None:
    window = StabilityWindow([8] * 5, size)
    for index in indices:
        window.add(index)
    held = Counter(indices[-size:])
    assert window.counts == [held[index] for index in range(5)]
    assert window.full == (len(indices) >= size)
    expected = psi(window.counts, [0.2] * 5) if window.full else None
    assert window.psi() == expected


@pytest.mark.parametrize(("images", "window"), [(50, 500), (200, 500), (1000, 300)])
def test_the_limit_is_exceeded_as_often_as_set(images: int, window: int) -> None:
    masses = gaps(images)
    shares = [mass / (images + 1) for mass in masses]
    rng = np.random.default_rng(0)
    limit = psi_limit(len(masses), images, window, 0.01)
    # What calibration cut into bins falls into them with Dirichlet distributed chances.
    found = [psi(rng.multinomial(window, rng.dirichlet(masses)).tolist(), shares) for _ in range(10_000)]
    assert 0.006 < np.mean(np.array(found) > limit) < 0.013
    assert np.mean(found) == pytest.approx((len(masses) - 1) * (1 / images + 1 / window), rel=0.05)


@pytest.mark.parametrize("tolerance", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("rate", [1e-2, 1e-6])
def test_the_tolerant_limit_is_about_the_non_central_one(tolerance: float, rate: float) -> None:
    noise = 1 / 200 + 1 / 500
    exact = noise * stats.ncx2.isf(rate, 11, tolerance**2 / noise)
    assert exact * 0.99 < psi_limit(12, 200, 500, rate, tolerance) < exact * 1.1


def test_what_is_tolerated_stays_below_the_limit() -> None:
    images, window, tolerance = 200, 500, 0.25
    masses, rng = gaps(images), np.random.default_rng(0)
    shares, ends = [mass / (images + 1) for mass in masses], np.cumsum(masses)[:-1] - 1
    found = []
    for _ in range(4000):
        edges = np.sort(rng.normal(size=images))[ends]
        counts = np.bincount(np.searchsorted(edges, rng.normal(tolerance, size=window)), minlength=len(masses))
        found.append(psi(counts.tolist(), shares))
    assert np.mean(np.array(found) > psi_limit(len(masses), images, window, 0.01, tolerance)) < 0.02
    assert np.mean(np.array(found) > psi_limit(len(masses), images, window, 0.01)) > 0.1
