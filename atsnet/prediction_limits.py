"""Upper prediction limits: the value that a new draw exceeds with a given probability, learned from n earlier draws.

**Conformal.** The limit is the k-th smallest value, k = ceil((n + 1)(1 - a)): split conformal prediction (Vovk,
Gammerman, Shafer: Algorithmic Learning in a Random World, 2005; Lei et al., JASA 113, 2018). A new draw, exchangeable
with these, exceeds it with a probability of at most a, whatever the distribution. The share of all new draws above it
is Beta(n + 1 - k, k) distributed, and of m new draws a Beta-binomial number exceeds it (Wilks, Ann. Math. Stat. 13,
1942): `promised_interval`.

It is taken where k < n. The largest value itself would keep the promise from n = 1/a - 1 on, but it rests on one draw:
its share is less than a quarter of a in one case of five, and one bad part among the normal ones *is* the limit.

**Exponential tail.** With fewer draws, the values above u, the (q + 1)-th largest, are taken to exceed it by an
exponentially distributed amount; q is a tenth of them, at least 5. Any distribution without a heavy tail is near to
that, far enough out (Pickands, Ann. Stat. 3, 1975). With d the mean of the q excesses, the limit is u + c d with
c = q (((q + 1) / ((n + 1) a))^(1/q) - 1): a new draw is above u with probability (q + 1) / (n + 1), and then
its excess over d is F(2, 2q) distributed, so that all of it exceeds the limit with probability a exactly, the
randomness of these n draws included. The share above the limit is U exp(-c G / q), with U of Beta(q + 1, n - q)
and G of Gamma(q): `tail_interval`.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_LOW: Final = 0.025
_HIGH: Final = 0.975
"""Ends of the 95 % intervals."""
_SHARE: Final = 0.1
_FEWEST: Final = 5
"""The tail begins at this share of the draws, and holds at least so many."""
_GRID: Final = 400
"""Quantiles of each of the two variables that `tail_interval` combines."""


@dataclass(frozen=True, slots=True)
class PredictionLimit:
    """A limit for draws like those that it was learned from."""

    value: float
    rate: float
    """Probability to keep."""
    count: int
    """Draws that it was learned from."""
    rank: int | None
    """The value is this smallest draw of them; None where it rests on the exponential tail."""

    @property
    def assumption(self) -> str | None:
        """What the promise takes for granted beyond exchangeable draws; None for nothing."""
        return None if self.rank else f"the largest {tail_size(self.count)} normal scores fall off exponentially"

    def interval(self, images: int | None = None) -> tuple[float, float]:
        """95 % interval of the share above the limit: of all new draws, or of so many observed ones."""
        if self.rank is None:
            return tail_interval(self.count, self.rate, images)
        return promised_interval(self.count, self.rank, images)


def upper_limit(values: NDArray[np.float64], rate: float) -> PredictionLimit:
    """The limit that a new draw exceeds with probability `rate`, by the first of the two rules that applies.

    Args:
        values: Finite, `float64 [n]`, at least 2.
        rate: Between 0 and 1.
    """
    count, ordered = len(values), np.sort(values)
    rank = conformal_rank(count, rate)
    if rank < count:
        return PredictionLimit(float(ordered[rank - 1]), rate, count, rank)
    size = tail_size(count)
    start = float(ordered[-size - 1])
    mean_excess = float(ordered[-size:].mean()) - start
    return PredictionLimit(start + _reach(count, rate) * mean_excess, rate, count, None)


def conformal_rank(count: int, rate: float) -> int:
    """k = ceil((n + 1)(1 - a)); above n where no draw is a limit."""
    # (n + 1) - floor((n + 1) a) is the same without the rounding error of 1 - a.
    return count + 1 - math.floor((count + 1) * rate + 1e-9)


def images_needed(rate: float) -> int:
    """How many draws a conformal limit takes that is not the largest of them: the least n with k < n."""
    return math.ceil(2 / rate - 1e-9) - 1


def attainable_rate(count: int) -> float:
    """The smallest rate that so many draws have a conformal limit for."""
    return 2 / (count + 1)


def promised_interval(count: int, rank: int, images: int | None = None) -> tuple[float, float]:
    """95 % interval of the share above the `rank`-th smallest of `count` draws, for any continuous distribution.

    Args:
        count: Draws that the limit was learned from.
        rank: From 1 to `count`.
        images: Of all new draws by default; of so many, it is the interval of the share that will be *observed*,
            with the randomness of both sets in it.
    """
    above = count + 1 - rank
    if images is None:
        return float(stats.beta.ppf(_LOW, above, rank)), float(stats.beta.ppf(_HIGH, above, rank))
    return _observed(np.cumsum(stats.betabinom.pmf(np.arange(images + 1), images, above, rank)))


def tail_interval(count: int, rate: float, images: int | None = None) -> tuple[float, float]:
    """95 % interval of the share above the limit that `count` draws with an exponential tail give.

    Args:
        count: Draws that the limit was learned from.
        rate: That it was to keep.
        images: As in `promised_interval`.
    """
    size = tail_size(count)
    steps = (np.arange(_GRID) + 0.5) / _GRID
    beyond_start = stats.beta.ppf(steps, size + 1, count - size)
    beyond_reach = np.exp(-_reach(count, rate) / size * stats.gamma.ppf(steps, size))
    shares = np.outer(beyond_start, beyond_reach).ravel()
    if images is None:
        return float(np.quantile(shares, _LOW)), float(np.quantile(shares, _HIGH))
    # The binomial numbers of a few hundred typical shares, evenly mixed.
    typical = np.quantile(shares, steps)
    return _observed(stats.binom.cdf(np.arange(images + 1)[:, np.newaxis], images, typical).mean(axis=1))


def tail_size(count: int) -> int:
    """How many of the largest draws are taken as the tail, q."""
    return min(count - 1, max(_FEWEST, round(_SHARE * count)))


def _observed(cumulated: NDArray[np.float64]) -> tuple[float, float]:
    """The interval as shares of m images; `cumulated` holds the probabilities of at most 0, 1, .. m of them."""
    low, high = np.searchsorted(cumulated, (_LOW, _HIGH)) / (len(cumulated) - 1)
    return float(low), float(high)


def _reach(count: int, rate: float) -> float:
    """The limit's distance from the tail's start, in mean excesses: c."""
    size = tail_size(count)
    return float(size * (((size + 1) / ((count + 1) * rate)) ** (1 / size) - 1))
