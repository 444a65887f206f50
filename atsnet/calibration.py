"""Thresholds from held-out normal images alone.

**Score.** With n held-out normal scores and a target false-reject rate a, the threshold is the k-th smallest score,
k = ceil((n + 1)(1 - a)): split conformal prediction (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World,
2005; Lei et al., JASA 113, 2018). A new normal part, exchangeable with these, scores above it with a probability of at
most a, whatever the distribution. That takes n >= 1/a - 1: 99 images for 1 %.

With fewer images no order statistic keeps the promise, the largest score included. The
threshold is then the upper prediction limit of a log-normal distribution, exp(m + t s sqrt(1 + 1/n)), m and s being the
mean and standard deviation of the log-scores and t the (1 - a) quantile of Student's t with n - 1 degrees of freedom.
It promises the same as the conformal one (one new normal part exceeds it with probability a, the randomness of these n
images included), at the price of an assumption; t widens it by itself where few images say little of the spread.
Scores are means of squares, hence skewed to the right; their logarithms are near to normal (of 114 held-out magnetic
tiles, after short training: a skewness of 0.05 instead of 2.2, Shapiro-Wilk p = 0.5). The tail is a little heavier: of
the other tiles, thresholds from 30 rejected 1.4 % instead of 1 %, and the largest of 30 scores rejected 3.1 %.
Median and absolute deviation would forgive a defective part among the images, but use only a third of what they say
about the spread, and nothing of the tail; such a part is pointed out instead.

**Map.** The image score is the mean of the map's highest positions, so both have the same unit, and the map's
threshold is the score's. Then an image that fails has a map position above the threshold, always; one that passes has
none unless its score is within the small factor between the highest position and that mean (about 1.2 on normal
images). A threshold of the map's own, the same rank among the highest positions of each normal image, would be that
factor higher: 12 of 17 failing magnetic tiles would have shown no region at all.

The held-out images also set the map's channel weights and scales (`atsnet.training.fitting`), a few hundred numbers
from millions of positions; the promise neglects that.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import stats

from atsnet.config import CalibrationConfig
from atsnet.data.frames import load_frames
from atsnet.data.layout import find_dataset, fingerprint, list_problems
from atsnet.evaluation.scoring import score_frames
from atsnet.progress import Reporter, silent
from atsnet.training.run_directory import CALIBRATION_NAME, TrainedRun

MIN_IMAGES: Final = 3
"""With fewer normal scores there is no spread to speak of."""

_OUTLIER: Final = 5.0
"""Robust standard deviations of the log-scores above the median, from which a normal image is pointed out."""
_LAX: Final = 10.0
"""Times the median normal score, from which a threshold is pointed out."""


class CalibrationError(Exception):
    """Thresholds cannot be learned, or are damaged; the message says from what and what to do."""


class Calibration(BaseModel):
    """Thresholds and what they rest on; calibrated score = raw score / `score_threshold`, above 1 fails."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score_threshold: float = Field(gt=0, allow_inf_nan=False)
    map_threshold: float = Field(gt=0, allow_inf_nan=False)
    """Raw map value from which a position belongs to an anomalous region."""
    review_score: float | None = Field(default=None, gt=0, le=1)
    target_false_reject_rate: float = Field(gt=0, lt=1)
    normal_images: int = Field(ge=1)
    method: str
    attainable_rate: float = Field(gt=0, lt=1)
    """Smallest false-reject rate that this many images can promise without an assumption."""
    false_reject_interval: tuple[float, float] | None
    """95 % interval of the rate at this threshold; None where it rests on an assumption."""
    median_score: float
    """Median raw score of the normal images."""
    region_share: float = Field(ge=0, le=1)
    """Share of the normal images that pass and yet have a map position at the threshold."""
    warnings: tuple[str, ...] = ()

    def deployed(self) -> dict[str, Any]:
        """The fields that a bundle's manifest carries."""
        names = (
            "score_threshold",
            "map_threshold",
            "review_score",
            "target_false_reject_rate",
            "normal_images",
            "method",
        )
        return {name: getattr(self, name) for name in names}


def images_needed(rate: float) -> int:
    """How many held-out normal images promise a false-reject rate without an assumption about the scores."""
    return math.ceil(1 / rate - 1e-9) - 1


def calibrate(
    scores: ArrayLike, map_peaks: ArrayLike, config: CalibrationConfig, names: Sequence[str] | None = None
) -> Calibration:
    """Learn thresholds from normal images, as the module says.

    Args:
        scores: Raw scores of held-out normal images, `float [N]`, at least `MIN_IMAGES`.
        map_peaks: Highest value of each one's raw map, `float [N]`.
        config: The false-reject rate to keep.
        names: What to call the images in warnings.

    Raises:
        CalibrationError: Too few scores, or they are not finite, negative, or all 0.
    """
    values, peaks = np.asarray(scores, np.float64), np.asarray(map_peaks, np.float64)
    rate, count = config.target_false_reject_rate, len(values)
    if peaks.shape != values.shape or values.ndim != 1:
        raise ValueError(f"scores {values.shape} and map peaks {peaks.shape} must be one each for every image")
    _check_usable(values)
    logs = np.log(np.maximum(values, values[values > 0].min()))
    threshold, interval, method, warnings = _score_threshold(values, logs, rate)
    median = float(np.median(values))
    if threshold > _LAX * median:
        warnings.append(
            f"the threshold is {threshold / median:.0f} times the median normal score: hold out more normal images"
        )
    warnings += _outliers(logs, names)
    return Calibration(
        score_threshold=threshold,
        map_threshold=threshold,
        target_false_reject_rate=rate,
        normal_images=count,
        method=method,
        attainable_rate=1 / (count + 1),
        false_reject_interval=interval,
        median_score=median,
        region_share=float(((values <= threshold) & (peaks >= threshold)).mean()),
        warnings=tuple(warnings),
    )


def calibrate_run(run: TrainedRun, root: Path, *, batch_size: int = 16, report: Reporter = silent) -> Calibration:
    """Calibrate a run on its own held-out images, and write the result into its directory.

    Args:
        run: A finished run.
        root: The data folder that it was trained on; it may have moved.
        batch_size: Images at a time.
        report: Told how far it is.

    Raises:
        CalibrationError: The run's images are gone or altered, or their scores are of no use.
        DataError: The folder or an image cannot be read.
    """
    samples = {sample.name: sample for sample in find_dataset(root).train}
    data = run.record.data
    missing = [name for name in (*data.holdout_images, *data.train_images) if name not in samples]
    if missing:
        raise CalibrationError(
            f"{root} is not the folder that {run.directory} was trained on: " + list_problems(missing, "missing")
        )
    held_out = [samples[name] for name in data.holdout_images]
    if fingerprint([*held_out, *(samples[name] for name in data.train_images)]) != data.sha256:
        raise CalibrationError(
            f"images in {root} are not those that {run.directory} was trained on: a file was altered since; "
            "restore it, or train again"
        )
    frames = load_frames(
        held_out, run.config.input, progress=lambda done, total: report("reading held-out images", done, total)
    )
    raw = score_frames(run.network, frames.pixels, batch_size=batch_size, report=report)
    calibration = calibrate(raw.scores, raw.maps.max(axis=(1, 2)), run.config.calibration, data.holdout_images)
    save_calibration(run.directory, calibration)
    return calibration


def save_calibration(directory: Path, calibration: Calibration) -> None:
    """Write `calibration.json` into a run's directory, in one step."""
    path = directory / CALIBRATION_NAME
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(calibration.model_dump_json(indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def load_calibration(directory: Path) -> Calibration | None:
    """Read a run's calibration; None where it has none yet.

    Raises:
        CalibrationError: The file is damaged.
    """
    path = directory / CALIBRATION_NAME
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CalibrationError(f"{path} is damaged; make it again with `atsnet calibrate`: {error}") from error


def _score_threshold(
    values: NDArray[np.float64], logs: NDArray[np.float64], rate: float
) -> tuple[float, tuple[float, float] | None, str, list[str]]:
    count = len(values)
    # (n + 1) - floor((n + 1) a) is ceil((n + 1)(1 - a)) without the rounding error of 1 - a.
    rank = count + 1 - math.floor((count + 1) * rate + 1e-9)
    if rank <= count:
        threshold = float(np.sort(values)[rank - 1])
        if threshold <= 0:
            raise CalibrationError(f"a threshold of {threshold} cannot be used: too many normal images score 0")
        # The rate above the k-th of n scores is distributed as Beta(n + 1 - k, k).
        low, high = (float(stats.beta.ppf(share, count + 1 - rank, rank)) for share in (0.025, 0.975))
        warnings = []
        if rank == count:
            warnings.append(
                f"the threshold is the largest of {count} normal scores and rests on that one image; "
                f"from {images_needed(rate / 2)} images on it rests on more"
            )
        return threshold, (low, high), f"split conformal: rank {rank} of {count} normal scores", warnings
    reach = float(stats.t.ppf(1 - rate, count - 1)) * math.sqrt(1 + 1 / count)
    with np.errstate(over="ignore"):
        threshold = float(np.exp(logs.mean() + reach * logs.std(ddof=1)))
    if not math.isfinite(threshold):
        raise CalibrationError(f"{count} normal scores spread too widely for a threshold; hold out more images")
    needed = images_needed(rate)
    method = f"log-normal prediction limit of {count} normal scores (split conformal needs {needed})"
    warning = (
        f"{count} normal images cannot promise a false-reject rate of {rate:.2%} without assuming that scores are "
        f"log-normal; {needed} are needed, and these can promise {1 / (count + 1):.2%}"
    )
    return threshold, None, method, [warning]


def _outliers(logs: NDArray[np.float64], names: Sequence[str] | None) -> list[str]:
    spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    if spread == 0:
        return []
    far = [index for index in np.argsort(-logs) if logs[index] - np.median(logs) > _OUTLIER * spread]
    which = ", ".join(names[index] if names else f"number {index + 1}" for index in far[:5])
    return [f"{len(far)} of the normal images far above the others; see whether good: {which}"] if far else []


def _check_usable(values: NDArray[np.float64]) -> None:
    if len(values) < MIN_IMAGES:
        raise CalibrationError(
            f"{len(values)} held-out normal images are too few for a threshold, {MIN_IMAGES} the least; add images "
            "or raise training.holdout_fraction, and train again"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise CalibrationError("scores of normal images must be finite and not negative")
    if not values.any():
        raise CalibrationError("all normal images score 0: the network is not trained")
