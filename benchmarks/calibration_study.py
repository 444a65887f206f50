"""Do thresholds keep what they promise? Promised against observed false-reject rates over random splits.

    python -m benchmarks.calibration_study runs/grains data/grains --more data/more-good-grains

Scores every good image that the run was not trained on (held out, test, and those of --more), splits them at random
into some to calibrate on and others to observe the rate on, and counts the splits whose observed rate lies in the
promised 95 % interval. Beside the rule in use stand two that were not taken: a prediction limit for log-normal scores,
and the largest score, where it is the conformal limit.

    python -m benchmarks.calibration_study --splits 1000 --calibrate-on 114

does the same with simulated scores of known distributions, of which 250 fresh ones are observed.
"""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from atsnet.calibration import calibrate
from atsnet.config import CalibrationConfig
from atsnet.data.frames import load_frames
from atsnet.data.layout import Sample, find_dataset
from atsnet.evaluation.scoring import score_frames
from atsnet.prediction_limits import PredictionLimit, conformal_rank, promised_interval, upper_limit
from atsnet.training.run_directory import TrainedRun, load_run
from benchmarks.program import run_program

RATES = (0.005, 0.01, 0.02, 0.05)
OBSERVED = 250
"""Simulated scores that a limit is tried on."""
STEPS = 400

Scores = NDArray[np.float64]
Limit = tuple[float, str, tuple[float, float]]
"""The limit, its rule's name, and the promised interval of the observed rate."""
Rule = Callable[[Scores, float, int], Limit | None]
"""From scores, a rate and the number of images to observe; None where the rule does not apply."""


Draw = Callable[[int, np.random.Generator], Scores]
DISTRIBUTIONS: dict[str, Draw] = {
    "log-normal": lambda count, rng: rng.lognormal(0, 0.3, count),
    "gamma, shape 4": lambda count, rng: rng.gamma(4, 1, count),
    "Weibull, shape 3": lambda count, rng: rng.weibull(3, count),
    "Pareto tail, index 3.6": lambda count, rng: stats.burr12(6, 0.6).rvs(count, random_state=rng),
    "one part in 20 of another make": lambda count, rng: rng.lognormal(0.8 * (rng.random(count) < 0.05), 0.2),
    "uniform from 1 to 2": lambda count, rng: rng.uniform(1, 2, count),
}


@dataclass(frozen=True, slots=True)
class Pool:
    """Images that the run was not trained on."""

    good: Scores
    names: tuple[str, ...]
    held_out: int
    """How many of the good ones, the first, are the run's own held-out images."""
    defective: Scores


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="simulated scores without one")
    parser.add_argument("data", type=Path, nargs="?", help="the folder that the run was trained on")
    parser.add_argument("--more", type=Path, action="append", default=[], help="folder of further good images")
    parser.add_argument("--calibrate-on", type=int, nargs="*", default=[], help="images; half of them by default")
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lots", help="regular expression; images whose names match it alike stay on one side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.run is None:
        for name, draw in DISTRIBUTIONS.items():
            print(f"\n{name}")
            _print_table(
                [
                    [(draw(count, rng), draw(OBSERVED, rng)) for rng in _generators(options.splits, options.seed)]
                    for count in options.calibrate_on or [114]
                ]
            )
        return
    if options.data is None:
        parser.error("a run needs its data")
    run = load_run(options.run)
    pool = _score(run, options.data, options.more)
    print(f"{options.run.name}: {len(pool.good)} good images not trained on, {len(pool.defective)} defective ones\n")
    _print_deployed(pool, run.config.calibration)
    counts = options.calibrate_on or [len(pool.good) // 2]
    rngs = _generators(options.splits, options.seed)
    print()
    _print_table([_splits(pool, count, rngs, options.lots) for count in counts], pool.defective)


def _generators(number: int, seed: int) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, index)) for index in range(number)]


def _score(run: TrainedRun, root: Path, more: Sequence[Path]) -> Pool:
    dataset, held_out = find_dataset(root), set(run.record.data.holdout_images)
    own = [sample for sample in dataset.train if sample.name in held_out]
    good = [*own, *(sample for sample in dataset.test if not sample.defective)]
    good += [sample for folder in more for sample in find_dataset(folder).train]
    defective = [sample for sample in dataset.test if sample.defective]

    def scores(samples: Sequence[Sample]) -> Scores:
        parts = [samples[start : start + 64] for start in range(0, len(samples), 64)]
        scored = [score_frames(run.network, load_frames(part, run.config.input).pixels).scores for part in parts]
        return np.concatenate([np.empty(0, np.float64), *scored])

    return Pool(scores(good), tuple(sample.path.stem for sample in good), len(own), scores(defective))


def _print_deployed(pool: Pool, config: CalibrationConfig) -> None:
    """What the run's own calibration promises, and what the other good images say of it."""
    held_out, others = pool.good[: pool.held_out], pool.good[pool.held_out :]
    calibration = calibrate(held_out, held_out, config)
    limit = upper_limit(held_out, config.target_false_reject_rate)
    low, high = limit.interval(len(others))
    rejected = int((others > calibration.score_threshold).sum())
    print(
        f"deployed, {config.target_false_reject_rate:.1%}, {calibration.method}: {rejected} of the {len(others)} other "
        f"good images rejected ({rejected / len(others):.2%}); promised {low:.2%} to {high:.2%} of so many"
    )


def _splits(
    pool: Pool, count: int, rngs: Sequence[np.random.Generator], lots: str | None
) -> list[tuple[Scores, Scores]]:
    """`count` good scores to calibrate on and the others; whole lots until there are as many, where there are lots."""
    names = [match[0] if lots and (match := re.search(lots, name)) else name for name in pool.names]
    lot = np.array(names) if lots else np.arange(len(names))
    found = []
    for rng in rngs:
        order = rng.permutation(np.unique(lot))
        sizes = np.cumsum([(lot == one).sum() for one in order])
        chosen = np.isin(lot, order[: int(np.searchsorted(sizes, count)) + 1])
        found.append((pool.good[chosen], pool.good[~chosen]))
    return found


def _print_table(runs: Sequence[Sequence[tuple[Scores, Scores]]], defective: Scores | None = None) -> None:
    print("| target | calibrated on | rule | promised | observed, mean | inside | defects that pass |")
    print("| ---: | ---: | --- | --- | ---: | ---: | ---: |")
    for splits in runs:
        for rate in RATES:
            for rule in (_deployed, _log_normal, _largest):
                row = _row(splits, rate, rule, defective)
                if row:
                    print(row, flush=True)


def _row(splits: Sequence[tuple[Scores, Scores]], rate: float, rule: Rule, defective: Scores | None) -> str | None:
    """None where the rule applies to no split."""
    used, observed, inside, passed, promises, names = [], [], 0, [], [], set()
    for chosen, others in splits:
        found = rule(chosen, rate, len(others))
        if found is None:
            continue
        limit, name, (low, high) = found
        share = float((others > limit).mean())
        used.append(len(chosen))
        observed.append(share)
        inside += low <= share <= high
        if defective is not None and len(defective):
            passed.append(float((defective <= limit).mean()))
        promises.append((low, high))
        names.add(name)
    if not used:
        return None
    low, high = np.median(promises, axis=0)
    escapes = f"{np.mean(passed):.0%} ± {np.std(passed):.0%}" if passed else ""
    return (
        f"| {rate:.1%} | {np.median(used):.0f} | {' or '.join(sorted(names))} | {low:.1%} to {high:.1%} "
        f"| {np.mean(observed):.2%} | {inside} of {len(used)} | {escapes} |"
    )


def _deployed(scores: Scores, rate: float, images: int) -> Limit:
    limit = upper_limit(scores, rate)
    promise = _promise(limit.count, rate, limit.rank, images)
    return limit.value, "exponential tail" if limit.rank is None else "conformal", promise


@cache
def _promise(count: int, rate: float, rank: int | None, images: int) -> tuple[float, float]:
    return PredictionLimit(0.0, rate, count, rank).interval(images)


def _log_normal(scores: Scores, rate: float, images: int) -> Limit:
    """exp(m + t s sqrt(1 + 1/n)): m and s of the log-scores, t of Student's distribution with n - 1 degrees."""
    count = len(scores)
    logs: Scores = np.log(scores)
    limit = float(np.exp(logs.mean() + _log_normal_reach(count, rate) * logs.std(ddof=1)))
    return limit, "log-normal", _log_normal_promise(count, rate, images)


def _log_normal_reach(count: int, rate: float) -> float:
    return float(stats.t.ppf(1 - rate, count - 1)) * math.sqrt(1 + 1 / count)


@cache
def _log_normal_promise(count: int, rate: float, images: int) -> tuple[float, float]:
    steps = (np.arange(STEPS) + 0.5) / STEPS
    spread = np.sqrt(stats.chi2.ppf(steps, count - 1) / (count - 1))
    reach = _log_normal_reach(count, rate) * spread
    shares = stats.norm.sf(np.add.outer(stats.norm.ppf(steps) / math.sqrt(count), reach)).ravel()
    typical = np.quantile(shares, steps)
    cumulated = np.mean(stats.binom.cdf(np.arange(images + 1)[:, np.newaxis], images, typical), axis=1)
    low, high = np.searchsorted(cumulated, (0.025, 0.975)) / images
    return float(low), float(high)


def _largest(scores: Scores, rate: float, images: int) -> Limit | None:
    count = len(scores)
    if conformal_rank(count, rate) != count:
        return None
    return float(scores.max()), "largest score", promised_interval(count, count, images)


if __name__ == "__main__":
    run_program(main)
