"""Population stability index (PSI) of a sliding window against the calibration, with a limit for a false-alarm rate.

PSI = sum over the bins of (q - p) ln(q / p), p the bin's share at calibration and q that in the window: the symmetric
Kullback-Leibler divergence. Without any change it is not 0: with B bins, m calibration images and a window of n,
PSI / (1/m + 1/n) is about chi-square distributed with B - 1 degrees of freedom (Yurdakul: Statistical Properties of
Population Stability Index, Western Michigan University, 2018; Yurdakul and Naranjo, Journal of Risk Model Validation
14(4), 2020), so that its mean is (B - 1)(1/m + 1/n). The usual limits of 0.1 and 0.25 know neither m nor n: with 12
bins, 114 calibration images and a window of 200 the *mean* of no change is 0.15.

A shift of the mean by t standard deviations has a PSI of t squared, were the values normal and the bins narrow. Where
such a shift is to be tolerated, the chi-square distribution is the non-central one with t^2 / (1/m + 1/n), for which
stands a multiple of a central one with the same mean and variance (Patnaik, Biometrika 36, 1949).
"""

import math
from collections.abc import Sequence


class StabilityWindow:
    """The last `size` observations of one quantity, counted by bin.

    Args:
        masses: Gaps of each bin at calibration, `reference.gaps`.
        size: Observations that it holds.
    """

    def __init__(self, masses: Sequence[int], size: int) -> None:
        self._shares = [mass / sum(masses) for mass in masses]
        self._ring = bytearray(size)
        self._oldest = 0
        self.counts = [0] * len(masses)
        self.full = False

    def add(self, index: int) -> None:
        """Take in an observation's bin; the oldest one leaves."""
        oldest = self._oldest
        if self.full:
            self.counts[self._ring[oldest]] -= 1
        self._ring[oldest] = index
        self.counts[index] += 1
        oldest += 1
        if oldest == len(self._ring):
            self.full, oldest = True, 0
        self._oldest = oldest

    def psi(self) -> float | None:
        """The index now; None until the window is full."""
        return psi(self.counts, self._shares) if self.full else None


def psi(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Population stability index of counts against expected shares; half a count is added to each bin.

    The half keeps an empty bin from making it infinite.
    """
    total = sum(counts) + len(counts) / 2
    index = 0.0
    for count, share in zip(counts, shares, strict=True):
        found = (count + 0.5) / total
        index += (found - share) * math.log(found / share)
    return index


def psi_limit(bins: int, images: int, window: int, false_alarm_rate: float, tolerance: float = 0.0) -> float:
    """PSI that a full window exceeds with the given chance, over calibrations and windows.

    Args:
        bins: At least 2.
        images: At calibration.
        window: Observations in it.
        false_alarm_rate: Of one look at the window.
        tolerance: Shift of the mean, in standard deviations, that is still none.
    """
    noise = 1 / images + 1 / window
    degrees, shift = bins - 1, tolerance**2 / noise
    # The multiple of a central distribution needs whole degrees of freedom here; fewer make a longer tail.
    central = math.floor((degrees + shift) ** 2 / (degrees + 2 * shift))
    return noise * (degrees + shift) / central * chi_square_limit(central, false_alarm_rate)


def chi_square_limit(degrees: int, chance: float) -> float:
    """The value that a chi-square variable of so many degrees of freedom exceeds with this chance."""
    low, high = 0.0, 1.0
    while chi_square_tail(degrees, high) > chance:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(degrees, middle) > chance else (low, middle)
    return high


def chi_square_tail(degrees: int, value: float) -> float:
    """Chance that a chi-square variable exceeds a value; for whole degrees of freedom, a finite sum."""
    half = value / 2
    tail = math.erfc(math.sqrt(half)) if degrees % 2 else math.exp(-half)
    power = 0.5 if degrees % 2 else 1.0
    while power < degrees / 2:
        tail += math.exp(-half) * half**power / math.gamma(power + 1)
        power += 1
    return tail
