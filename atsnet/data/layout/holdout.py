"""Which good images are held out of training."""

from collections.abc import Sequence

import numpy as np

from atsnet.data.layout.dataset import DataError, Sample


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
    count = min(max(1, round(fraction * len(samples))), len(samples) - 1)
    held_out = set(np.random.default_rng(seed).permutation(len(samples))[:count].tolist())
    return (
        tuple(sample for index, sample in enumerate(samples) if index not in held_out),
        tuple(sample for index, sample in enumerate(samples) if index in held_out),
    )
