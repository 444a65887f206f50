"""What a quantity looked like at calibration: the order statistics that cut its values into bins of equal chance.

The m calibration values cut the line into m + 1 gaps; a further value, exchangeable with them, falls into each with
chance 1 / (m + 1), whatever the distribution. Every k-th value is an edge, so that a bin of g gaps has the chance
g / (m + 1), and after n further values of which c fell into it (g + c) / (m + 1 + n): the urn of Pólya. Bins from a
sample are exact in this sense; there is no "true" distribution that they only estimate.

Values that are alike (a stuck camera, a coarse scale) are put in order by lot: each has a tie-break drawn from [0, 1),
and value and tie-break are compared together. What is said above then holds for any distribution.
"""

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_BINS: Final = 12
"""Bins of this many keep 97 % of what values of a normal distribution tell about a shift, and 75 % about a spread."""
_GAPS_PER_BIN: Final = 8
MIN_IMAGES: Final = 2 * _GAPS_PER_BIN - 1
"""With fewer there would be no two bins."""


class TooFewImagesError(ValueError):
    """There are too few values to compare others with, or they are not numbers; the message says how many."""


class Edges(BaseModel):
    """Where one quantity's bins end: order statistics of its values at calibration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[float, ...] = Field(min_length=1, max_length=MAX_BINS - 1)
    tie_breaks: tuple[float, ...]
    """In [0, 1); they decide between values that are alike, and else nothing."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        # Written so that NaN is out of order as well.
        pairs = list(zip(self.values, self.tie_breaks, strict=False))
        if len(self.tie_breaks) != len(self.values) or not all(low < high for low, high in pairwise(pairs)):
            raise ValueError("edges must rise, and have a tie-break each")
        if not all(np.isfinite(self.values)) or not all(0 <= chance < 1 for chance in self.tie_breaks):
            raise ValueError("edges must be finite and tie-breaks in [0, 1)")
        return self

    def bin(self, value: float, chance: Callable[[], float] = random.random) -> int:
        """Number of the bin of a value, from 0; NaN is above all."""
        low = bisect_left(self.values, value)
        if low == len(self.values) or self.values[low] != value:
            return low if value == value else len(self.values)
        return bisect_left(self.tie_breaks, chance(), low, bisect_right(self.values, value, low))


class Reference(BaseModel):
    """Distribution of a bundle's calibration images, of which `Reference.of` keeps a few order statistics.

    The score is the calibrated one, brightness and sharpness are those of `atsnet.quality`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=MIN_IMAGES)
    score: Edges
    brightness: Edges
    sharpness: Edges

    @model_validator(mode="after")
    def _same_bins(self) -> Self:
        bins = len(gaps(self.images))
        for quantity in ("score", "brightness", "sharpness"):
            found = len(getattr(self, quantity).values) + 1
            if found != bins:
                raise ValueError(f"{quantity} has {found} bins; {self.images} images make {bins}")
        return self

    @classmethod
    def of(cls, scores: ArrayLike, brightness: ArrayLike, sharpness: ArrayLike, *, seed: int = 0) -> Self:
        """The reference of calibration images.

        Args:
            scores: Calibrated, `float [m]`, of good images that the network was not trained on.
            brightness: Of the same images, `float [m]`.
            sharpness: Likewise.
            seed: Of the tie-breaks.

        Raises:
            TooFewImagesError: Fewer than `MIN_IMAGES`, or a value is not finite.
        """
        columns = [np.asarray(values, np.float64) for values in (scores, brightness, sharpness)]
        images = len(columns[0])
        if any(values.shape != (images,) for values in columns):
            raise ValueError(f"scores, brightness and sharpness must be one each for each image: {columns}")
        if images < MIN_IMAGES:
            raise TooFewImagesError(
                f"{images} images are too few to tell a drift from chance; {MIN_IMAGES} are the least"
            )
        if not np.isfinite(columns).all():
            raise TooFewImagesError(f"a score, brightness or sharpness of the {images} images is not finite")
        rng = np.random.default_rng(seed)
        ranks = np.cumsum(gaps(images))[:-1] - 1

        def edges(values: np.ndarray) -> Edges:
            tie_breaks = rng.random(images)
            chosen = np.lexsort((tie_breaks, values))[ranks]
            return Edges(values=tuple(values[chosen].tolist()), tie_breaks=tuple(tie_breaks[chosen].tolist()))

        score, bright, sharp = map(edges, columns)
        return cls(images=images, score=score, brightness=bright, sharpness=sharp)


def gaps(images: int) -> tuple[int, ...]:
    """How many of the `images + 1` gaps between calibration values each bin holds: as even as whole numbers are."""
    bins = min(MAX_BINS, (images + 1) // _GAPS_PER_BIN)
    return tuple((index + 1) * (images + 1) // bins - index * (images + 1) // bins for index in range(bins))
