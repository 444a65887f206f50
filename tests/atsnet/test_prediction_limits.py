import math

import numpy as np
import pytest
from scipy import stats

from atsnet.prediction_limits import (
    attainable_rate,
    conformal_rank,
    images_needed,
    promised_interval,
    tail_interval,
    tail_size,
    upper_limit,
)


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [(199, 0.01, 198), (298, 0.01, 297), (299, 0.01, 297), (1000, 0.01, 991), (39, 0.05, 38), (19, 0.1, 18)],
)
def test_the_conformal_rank(count: int, rate: float, rank: int) -> None:
    values = np.random.default_rng(1).permutation(np.arange(1.0, count + 1))
    limit = upper_limit(values, rate)
    assert limit.value == limit.rank == rank
    assert limit.assumption is None
    # A new value, equally likely in any place among the others, is above rank k with 1 - k / (n + 1).
    assert 1 - rank / (count + 1) <= rate + 1e-12
    assert 1 - (rank - 1) / (count + 1) > rate


@pytest.mark.parametrize(
    ("count", "rate", "rank"), [(99, 0.01, 99), (114, 0.01, 114), (198, 0.01, 198), (98, 0.01, 99)]
)
def test_the_largest_value_is_never_the_limit(count: int, rate: float, rank: int) -> None:
    assert conformal_rank(count, rate) == rank
    limit = upper_limit(np.random.default_rng(2).lognormal(size=count), rate)
    assert limit.rank is None
    assert limit.assumption == f"the largest {tail_size(count)} normal scores fall off exponentially"


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 199), (0.05, 39), (0.1, 19), (0.001, 1999), (0.03, 66), (0.3, 6)])
def test_images_needed_is_where_the_rule_changes(rate: float, needed: int) -> None:
    assert images_needed(rate) == needed
    values = np.random.default_rng(0).random(needed)
    assert upper_limit(values, rate).rank is not None
    assert upper_limit(values[1:], rate).rank is None
    assert attainable_rate(needed) <= rate < attainable_rate(needed - 1)


def test_the_exponential_tail_by_hand() -> None:
    """The 5 largest of 8 exceed 3 by 1, 1, 2, 3, 3, by 2 on average; c = 5 ((6 / (9 * 0.01))^(1/5) - 1)."""
    limit = upper_limit(np.array([6.0, 1.0, 4.0, 3.0, 2.0, 5.0, 4.0, 6.0]), 0.01)
    assert limit.value == pytest.approx(3 + 2 * 5 * ((6 / 0.09) ** 0.2 - 1))


@pytest.mark.parametrize(("count", "rate"), [(3, 0.2), (20, 0.01), (60, 0.02), (114, 0.01), (60, 0.05), (199, 0.01)])
def test_the_promise_is_exact_for_exponential_values(count: int, rate: float) -> None:
    """The share above each limit is known; its mean is the rate, and 95 in 100 lie within the interval."""
    draws = np.random.default_rng(0).exponential(size=(4000, count))
    limits = [upper_limit(values, rate) for values in draws]
    shares = np.exp([-limit.value for limit in limits])
    expected = rate if limits[0].rank is None else 1 - limits[0].rank / (count + 1)
    assert shares.mean() == pytest.approx(expected, abs=4 * shares.std() / math.sqrt(len(shares)))
    low, high = limits[0].interval()
    assert 0.935 < np.mean((low <= shares) & (shares <= high)) < 0.965
    observed = np.random.default_rng(1).binomial(250, shares) / 250
    low, high = limits[0].interval(250)
    assert np.mean((low <= observed) & (observed <= high)) > 0.94
    # No wider than it must be: without its ends it would not hold.
    assert np.mean((low < observed) & (observed < high)) < 0.95


DISTRIBUTIONS = {
    "log-normal 0.1": stats.lognorm(0.1),
    "log-normal 0.6": stats.lognorm(0.6),
    "gamma": stats.gamma(4),
    "Weibull": stats.weibull_min(3),
    "Burr": stats.burr12(6, 0.6),
    "bounded": stats.uniform(1, 1),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("count", "rate"), [(199, 0.01), (300, 0.01), (1000, 0.005), (40, 0.05), (200, 0.05)])
def test_the_conformal_promise_holds_for_any_distribution(name: str, count: int, rate: float) -> None:
    distribution, rng = DISTRIBUTIONS[name], np.random.default_rng(0)
    limits = [upper_limit(distribution.rvs(count, random_state=rng), rate) for _ in range(1000)]
    shares = distribution.sf([limit.value for limit in limits])
    assert shares.mean() < rate + 4 * shares.std() / math.sqrt(len(shares))
    low, high = limits[0].interval()
    assert 0.925 < np.mean((low <= shares) & (shares <= high)) < 0.975
    observed = rng.binomial(300, shares) / 300
    low, high = limits[0].interval(300)
    assert np.mean((low <= observed) & (observed <= high)) > 0.93


@pytest.mark.parametrize("name", sorted(set(DISTRIBUTIONS) - {"bounded"}))
@pytest.mark.parametrize(("count", "rate"), [(60, 0.01), (114, 0.01), (114, 0.005), (30, 0.05)])
def test_the_tail_keeps_its_promise_nearly_for_other_distributions(name: str, count: int, rate: float) -> None:
    distribution, rng = DISTRIBUTIONS[name], np.random.default_rng(0)
    limits = [upper_limit(distribution.rvs(count, random_state=rng), rate) for _ in range(1000)]
    assert limits[0].rank is None
    shares = distribution.sf([limit.value for limit in limits])
    assert 0.55 * rate < shares.mean() < 1.4 * rate
    low, high = limits[0].interval()
    assert np.mean(shares <= high) > 0.94
    assert np.mean(shares >= low) > 0.82
    observed = rng.binomial(114, shares) / 114
    low, high = limits[0].interval(114)
    assert np.mean((low <= observed) & (observed <= high)) > 0.95


def test_where_the_tail_fails() -> None:
    """Values with an upper end: their limit lies beyond it, and nothing is rejected."""
    rng = np.random.default_rng(0)
    limits = [upper_limit(rng.uniform(1, 2, 114), 0.01).value for _ in range(200)]
    assert np.mean(np.array(limits) > 2) > 0.8


def test_of_many_images_is_observed_what_is_true() -> None:
    for interval in (
        lambda images: promised_interval(400, 397, images),
        lambda images: tail_interval(114, 0.01, images),
    ):
        assert interval(10_000) == pytest.approx(interval(None), abs=4e-4)
        wider = interval(100)
        assert wider[0] <= interval(None)[0] < interval(None)[1] <= wider[1]


def test_the_intervals_by_hand() -> None:
    # Above the largest of n values: P(share < x) = 1 - (1 - x)^n.
    low, high = promised_interval(50, 50)
    assert 1 - (1 - low) ** 50 == pytest.approx(0.025)
    assert 1 - (1 - high) ** 50 == pytest.approx(0.975)
    # Of one new value against the median of 3, 0 or 1 is above, both with one half.
    assert promised_interval(3, 2, 1) == (0, 1)


def test_one_bad_part_does_not_become_the_limit() -> None:
    values = np.random.default_rng(0).lognormal(0, 0.3, 114)
    limit = upper_limit(values, 0.01).value
    values[0] = 10.0
    assert limit < upper_limit(values, 0.01).value < 6
