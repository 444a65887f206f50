"""Percentiles of any number of durations, in the same memory."""

import math
from typing import Final

import numpy as np

_LEAST_S: Final = 1e-4
_STEP: Final = 1.01
_STEPS: Final = 1_700
"""Up to about half an hour."""


class Latencies:
    """Counts durations in classes, each 1 % wider than the one before: that is how exact the percentiles are."""

    def __init__(self) -> None:
        self._counts = np.zeros(_STEPS, np.int64)
        self.longest_s = 0.0

    @property
    def count(self) -> int:
        """How many were added."""
        return int(self._counts.sum())

    def add(self, seconds: float) -> None:
        """Count one."""
        step = math.floor(math.log(max(seconds, _LEAST_S) / _LEAST_S, _STEP))
        self._counts[min(step, _STEPS - 1)] += 1
        self.longest_s = max(self.longest_s, seconds)

    def percentile_s(self, percent: float) -> float | None:
        """The duration that so many percent of all are below, or are; `None` without any."""
        total = self.count
        if not total:
            return None
        rank = max(1, math.ceil(total * percent / 100))
        step = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_LEAST_S * _STEP ** (step + 1), self.longest_s)
