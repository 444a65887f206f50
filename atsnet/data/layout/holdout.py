"""Which good images are held out of training."""

from collections.abc import Sequence
from itertools import count

import numpy as np

from atsnet.data.layout.dataset import DataError, Sample


def holdout_size(images: int, fraction: float) -> int:
    """How many of at least 2 images are held out."""
    return min(max(1, round(fraction * images)), images - 1)


def images_to_hold_out(size: int, fraction: float) -> int:
    """The smallest number of images of which at least `size`, 2 or more, are held out."""
    fewest = max(size + 1, int((size - 0.5) / fraction))
    return next(images for images in count(fewest) if holdout_size(images, fraction) >= size)


def split_holdout(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split samples at random, the same way for the same samples and seed, into those to train on and a holdout.

    Returns:
        The samples to train on and the held-out ones, at least one of each, in the order given.

    Raises:
        DataError: Fewer than two samples.
        ValueError: `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the holdout fraction must be between 0 and 1, not {fraction}")
    if len(samples) < 2:
        where = f": only {samples[0].path}" if samples else ""
        raise DataError(
            f"at least 2 good images are needed, one to train on and one to hold out; got {len(samples)}{where}"
        )
    size = holdout_size(len(samples), fraction)
    held_out = set(np.random.default_rng(seed).permutation(len(samples))[:size].tolist())
    return (
        tuple(sample for index, sample in enumerate(samples) if index not in held_out),
        tuple(sample for index, sample in enumerate(samples) if index in held_out),
    )
