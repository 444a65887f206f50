from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atsnet.reference import Reference, gaps
from service.monitoring.sequential import Change, ChangeDetector, likeliest_change, tilt_weights, tolerated_tilts


def feed(detector: ChangeDetector, values: np.ndarray, reference: Reference, limit: float) -> int | None:
    """Number of the observation at which the evidence reaches the limit."""
    for number, value in enumerate(values.tolist(), 1):
        if detector.update(reference.score.bin(value)) >= limit:
            return number
    return None


def calibrated(images: int, rng: np.random.Generator) -> Reference:
    values = rng.normal(size=images)
    return Reference.of(values, values, values)


def expected_evidence(masses: tuple[int, ...], past: list[int], tolerance: float) -> tuple[float, float]:
    """The evidence after `past`, and its mean after one more exchangeable observation."""
    detector, urn, evidence = ChangeDetector(masses, tolerance), list(masses), 0.0
    for index in past:
        evidence = detector.update(index)
        urn[index] += 1
    following = [deepcopy(detector).update(index) for index in range(len(masses))]
    return evidence, float(np.average(following, weights=urn))


@settings(deadline=None)
@given(st.sampled_from([15, 60, 200]), st.data())
def test_without_tolerance_evidence_grows_by_one_on_average(images: int, data: st.DataObject) -> None:
    masses = gaps(images)
    past = data.draw(st.lists(st.integers(0, len(masses) - 1), max_size=30))
    evidence, mean = expected_evidence(masses, past, 0.0)
    assert mean == pytest.approx(evidence + 1, rel=1e-9)


@settings(deadline=None)
@given(st.sampled_from([15, 60, 200]), st.floats(0.01, 1), st.data())
def test_with_tolerance_it_grows_by_less(images: int, tolerance: float, data: st.DataObject) -> None:
    masses = gaps(images)
    past = data.draw(st.lists(st.integers(0, len(masses) - 1), max_size=30))
    evidence, mean = expected_evidence(masses, past, tolerance)
    assert mean <= (evidence + 1) * (1 + 1e-9)


@pytest.mark.parametrize("images", [20, 200])
def test_runs_without_a_change_are_as_long_as_set(images: int) -> None:
    limit, lengths = 300, []
    for seed in range(200):
        rng = np.random.default_rng((seed, images))
        reference = calibrated(images, rng)
        found = feed(ChangeDetector(gaps(images)), rng.normal(size=4000), reference, limit)
        lengths.append(found or 4000)
    # Ended at 4000, so that the true mean is larger still.
    assert np.mean(lengths) > limit
    assert np.mean(np.array(lengths) < limit / 10) < 0.1


@pytest.mark.parametrize(
    ("shift", "spread", "change", "at_most"),
    [
        (0.25, 1.0, "higher", 1600),
        (0.5, 1.0, "higher", 350),
        (-0.5, 1.0, "lower", 350),
        (1.0, 1.0, "higher", 100),
        (-2.0, 1.0, "lower", 30),
        (0.0, 2.0, "wider", 150),
        (0.0, 0.5, "narrower", 100),
    ],
)
def test_finds_a_change_soon(shift: float, spread: float, change: Change, at_most: int) -> None:
    delays = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        reference, detector = calibrated(200, rng), ChangeDetector(gaps(200))
        assert feed(detector, rng.normal(size=3000), reference, 1e5) is None
        delay = feed(detector, rng.normal(shift, spread, 3000), reference, 1e5)
        assert delay is not None
        assert delay > 5
        assert detector.change == change
        delays.append(delay)
    assert np.quantile(delays, 0.9) < at_most


def test_tolerates_what_it_is_told_to() -> None:
    rng = np.random.default_rng(3)
    reference = calibrated(1000, rng)
    shifted = rng.normal(0.3, size=5000)
    assert feed(ChangeDetector(gaps(1000)), shifted, reference, 1e5) is not None
    assert feed(ChangeDetector(gaps(1000), 0.3), shifted, reference, 1e5) is None


def test_what_is_not_learned_stays_strange() -> None:
    masses = gaps(200)
    learning, frozen = ChangeDetector(masses), ChangeDetector(masses)
    frozen.learning = False
    for _ in range(20):
        adapted, stayed = learning.update(11), frozen.update(11)
    assert stayed > 10 * adapted
    frozen.restart()
    assert frozen.update(5) < 5


def test_weights_are_likelihood_ratios() -> None:
    masses = gaps(100)
    weights = tilt_weights(masses, tolerated_tilts(0.5))
    assert np.average(weights, axis=0, weights=masses) == pytest.approx(np.ones(4))
    assert np.array(tilt_weights(masses, tolerated_tilts(0.0))) == pytest.approx(np.ones((len(masses), 4)))


@pytest.mark.parametrize(
    ("counts", "change"),
    [([1, 2, 3, 4], "higher"), ([4, 3, 2, 1], "lower"), ([5, 1, 1, 5], "wider"), ([1, 5, 5, 1], "narrower")],
)
def test_names_the_change(counts: list[int], change: Change) -> None:
    assert likeliest_change((8, 8, 8, 8), [50 * count for count in counts]) == change
