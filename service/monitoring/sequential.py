"""A sequential test for a change, with a proven mean number of observations between false alarms.

**What it bets on.** Observations arrive as bins of the calibration's order statistics. As long as they are
exchangeable with the calibration images, the next one falls into bin j with chance p(j) = (g(j) + c(j)) / (m + 1 + n)
exactly (`reference`), for any distribution and any number m of calibration images. A *tilt* w of the bins is a bet on
a change: the likelihood ratio of values that were normal, and whose mean or spread has changed. Its stake grows by
L = w(j) / sum over i of p(i) w(i), whose mean given the past is 1: the bets are test martingales on conformal ranks
(Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman: Retrain or not retrain: conformal test martingales for
change-point detection, PMLR 152, 2021).

**Tolerance.** No line makes every lot alike, and a change that nobody would act on is no reason for an alarm. With v
the tilt of a change as large as is tolerated, L = w(j) / v(j) * sum p v / sum p w bets on the larger change against
the tolerated one. Where w / v and v rise together, as they do here, the mean of L is at most 1 for any p.

**When it alarms.** With a new set of bets opened at every observation, R = sum over the K tilts of
R(tilt) <- (R(tilt) + 1/K) L(tilt) is an e-detector of Shiryaev-Roberts type (Shin, Ramdas, Rinaldo: E-detectors: a
nonparametric framework for sequential change detection, New England Journal of Statistics in Data Science 2(2), 2023):
R minus the number of observations is a supermartingale, so that an alarm at R >= c has a mean of at least c
observations before the first false one. The mean is over calibrations as well as over observations.

**What it compares with.** Observations without an alarm join the urn: a long quiet time makes the test sharper than
the calibration images alone could. What is different from the very first observation on, and slightly, cannot be told
from chance by any test with so few calibration images.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, Literal, NamedTuple

Change = Literal["higher", "lower", "wider", "narrower"]


class Tilt(NamedTuple):
    """A change of values that were normal: their new mean, in old standard deviations, and their new spread."""

    change: Change
    mean: float = 0.0
    spread: float = 1.0


_NORMAL: Final = NormalDist()


class ChangeDetector:
    """Weighs the evidence that a quantity has changed, one observation at a time.

    Args:
        masses: Gaps of each bin at calibration, `reference.gaps`.
        tolerance: Change of the mean in standard deviations, and of the spread as a share of it, that is none.
    """

    def __init__(self, masses: Sequence[int], tolerance: float = 0.0) -> None:
        tolerated = tolerated_tilts(tolerance)
        self._tilts = [tilt for bound in tolerated for tilt in tilts_beyond(bound)]
        bounds = {bound.change: position for position, bound in enumerate(tolerated)}
        # For each bin: the weight of each tolerated tilt, and of each tilt its weight, over the tolerated one's and as
        # it is, with the position of that one.
        self._bins = [
            (
                tolerated_weights,
                tuple(
                    (weight / tolerated_weights[bounds[tilt.change]], weight, bounds[tilt.change])
                    for tilt, weight in zip(self._tilts, weights, strict=True)
                ),
            )
            for tolerated_weights, weights in zip(
                tilt_weights(masses, tolerated), tilt_weights(masses, self._tilts), strict=True
            )
        ]
        # Of each tilt, the sum of the weights of all that is in the urn.
        self._tolerated_sums = [0.0] * len(tolerated)
        self._sums = [0.0] * len(self._tilts)
        for mass, (tolerated_weights, tilted) in zip(masses, self._bins, strict=True):
            self._put(mass, tolerated_weights, [weight for _, weight, _ in tilted])
        self._share = 1.0 / len(self._tilts)
        self.learning = True
        """Whether observations join those that later ones are compared with."""
        self.restart()

    @property
    def change(self) -> Change:
        """The change that most of the evidence is for."""
        return self._tilts[max(range(len(self._tilts)), key=self._evidence.__getitem__)].change

    def restart(self) -> None:
        """Drop the evidence, and keep what was learned."""
        self._evidence = [0.0] * len(self._tilts)

    def update(self, index: int) -> float:
        """Take in an observation's bin and answer the evidence for a change so far."""
        tolerated_weights, tilted = self._bins[index]
        tolerated_sums, sums, evidence, share = self._tolerated_sums, self._sums, self._evidence, self._share
        found = 0.0
        for tilt, (ratio, weight, bound) in enumerate(tilted):
            grown = (evidence[tilt] + share) * ratio * tolerated_sums[bound] / sums[tilt]
            evidence[tilt] = grown
            found += grown
            if self.learning:
                sums[tilt] += weight
        if self.learning:
            for bound, weight in enumerate(tolerated_weights):
                tolerated_sums[bound] += weight
        return found

    def _put(self, times: int, tolerated_weights: Sequence[float], weights: Sequence[float]) -> None:
        for bound, weight in enumerate(tolerated_weights):
            self._tolerated_sums[bound] += times * weight
        for tilt, weight in enumerate(weights):
            self._sums[tilt] += times * weight


def tolerated_tilts(tolerance: float) -> tuple[Tilt, ...]:
    """The largest changes that are none."""
    return (
        Tilt("higher", mean=tolerance),
        Tilt("lower", mean=-tolerance),
        Tilt("wider", spread=1 + tolerance),
        Tilt("narrower", spread=1 / (1 + tolerance)),
    )


def tilts_beyond(bound: Tilt) -> list[Tilt]:
    """The larger changes that are bet on; they are as far apart as a shift of any size needs to be found soon."""
    if bound.change in ("wider", "narrower"):
        return [bound._replace(spread=bound.spread * (2.0 if bound.change == "wider" else 0.5))]
    sign = 1 if bound.change == "higher" else -1
    return [bound._replace(mean=bound.mean + sign * beyond) for beyond in (0.25, 0.5, 1.0, 2.0)]


def tilt_weights(masses: Sequence[int], tilts: Sequence[Tilt]) -> list[tuple[float, ...]]:
    """For each bin, by how much each tilt makes it likelier, `[bins][tilts]`."""
    total, below, weights = sum(masses), 0, []
    for mass in masses:
        low, high = below / total, (below + mass) / total
        weights.append(tuple((_tilted(tilt, high) - _tilted(tilt, low)) / (high - low) for tilt in tilts))
        below += mass
    return weights


def likeliest_change(masses: Sequence[int], counts: Sequence[int]) -> Change:
    """The change that makes the counts of the bins likeliest."""
    tilts = [tilt for bound in tolerated_tilts(0.0) for tilt in tilts_beyond(bound)]
    weights = tilt_weights(masses, tilts)

    def likelihood(tilt: int) -> float:
        return sum(count * math.log(of_bin[tilt]) for count, of_bin in zip(counts, weights, strict=True))

    return tilts[max(range(len(tilts)), key=likelihood)].change


def _tilted(tilt: Tilt, share: float) -> float:
    """Share of the changed values below what a share of the unchanged ones is below."""
    if share in (0.0, 1.0):
        return share
    return _NORMAL.cdf((_NORMAL.inv_cdf(share) - tilt.mean) / tilt.spread)
