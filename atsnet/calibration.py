"""Thresholds from held-out normal images alone.

**Score.** Above the threshold a part fails: it is the upper prediction limit (`atsnet.prediction_limits`) of the normal
scores for the target false-reject rate. From 199 images on for 1 % this is split conformal, whose promise holds for any
distribution; below, the largest tenth of the scores is taken to fall off exponentially
(docs/decisions/0007-never-the-largest-score.md).

**Review.** Optional: from the limit for a second, larger rate on, a part that does not fail is for a person to see.

**Map.** The image score is the mean of the map's highest positions, so both have the same unit, and the map's
threshold is the score's. Then an image that fails has a map position above the threshold, always; one that passes has
none unless its score is within the small factor between the highest position and that mean (about 1.2 on normal
images). A threshold of the map's own, the same rank among the highest positions of each normal image, would be that
factor higher: 12 of 17 failing magnetic tiles would have shown no region at all.

**What normal images are like.** The same images leave a `Reference` of their scores, brightness and sharpness, which
monitoring compares a line's parts with, and `Gates`, which turn unusable images away. Neither moves a threshold.

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
from scipy.stats import mannwhitneyu

from atsnet.config import CalibrationConfig
from atsnet.data.frames import load_frames
from atsnet.data.layout import Sample, file_digests, find_dataset, fingerprint, list_problems
from atsnet.evaluation.scoring import score_frames
from atsnet.imaging import UInt8Array
from atsnet.prediction_limits import PredictionLimit, attainable_rate, images_needed, upper_limit
from atsnet.progress import Reporter, silent
from atsnet.quality import MIN_IMAGES as LEAST_FOR_GATES
from atsnet.quality import Gates, learn_gates, measure
from atsnet.reference import MIN_IMAGES as LEAST_FOR_REFERENCE
from atsnet.reference import Reference
from atsnet.training.run_directory import CALIBRATION_NAME, TrainedRun
from atsnet.wording import counted

MIN_IMAGES: Final = 3
"""With fewer normal scores there is no spread to speak of."""

_OUTLIER: Final = 5.0
"""Robust standard deviations of the log-scores above the median, from which a normal image is pointed out."""
_STRANGE: Final = 1e-3
"""Chance, were they alike, of further images that score as unlike the run's, below which they are pointed out."""
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
    """Calibrated score from which a part that does not fail is for a person to review; none by default."""
    target_false_reject_rate: float = Field(gt=0, lt=1)
    target_review_rate: float | None = Field(default=None, gt=0, lt=1)
    """Share of the normal parts that may reach `review_score`, those that fail included."""
    normal_images: int = Field(ge=1)
    method: str
    assumption: str | None = None
    """What the false-reject promise takes for granted of the scores; None where it holds for any distribution."""
    attainable_rate: float = Field(gt=0, lt=1)
    """Smallest false-reject rate that this many images can promise without an assumption."""
    false_reject_interval: tuple[float, float]
    """95 % interval of the share of the normal parts that fail."""
    review_interval: tuple[float, float] | None = None
    """95 % interval of the share that fails or is for review; None without a review score."""
    median_score: float
    """Median raw score of the normal images."""
    region_share: float = Field(ge=0, le=1)
    """Share of the normal images that pass and yet have a map position at the threshold."""
    further_images: dict[str, str] = {}
    """Path of each good image that is not of the run, and its sha256."""
    reference: Reference | None = None
    """What the normal images scored and looked like; None of too few, or where older versions calibrated."""
    gates: Gates | None = None
    """Learned from the same images, and None in the same cases."""
    warnings: tuple[str, ...] = ()

    def deployed(self) -> dict[str, Any]:
        """The fields of the calibration that a bundle's manifest carries."""
        names = (
            "score_threshold",
            "map_threshold",
            "review_score",
            "target_false_reject_rate",
            "target_review_rate",
            "normal_images",
            "method",
        )
        return {name: getattr(self, name) for name in names}


def calibrate(
    scores: ArrayLike, map_peaks: ArrayLike, config: CalibrationConfig, names: Sequence[str] | None = None
) -> Calibration:
    """Learn thresholds from normal images, as the module says.

    Args:
        scores: Raw scores of held-out normal images, `float [N]`, at least `MIN_IMAGES`.
        map_peaks: Highest value of each one's raw map, `float [N]`.
        config: The rates to keep.
        names: What to call the images in warnings.

    Raises:
        CalibrationError: Too few scores, or they are not finite, negative, or all 0.
    """
    values, peaks = np.asarray(scores, np.float64), np.asarray(map_peaks, np.float64)
    rate, count = config.target_false_reject_rate, len(values)
    if peaks.shape != values.shape or values.ndim != 1:
        raise ValueError(f"scores {values.shape} and map peaks {peaks.shape} must be one each for every image")
    _check_usable(values)
    fail = _fail_limit(values, rate)
    threshold, median = fail.value, float(np.median(values))
    warnings = _doubts("false-reject", fail)
    review, review_score = None, None
    if config.target_review_rate is not None:
        review = upper_limit(values, config.target_review_rate)
        warnings += _doubts("review", review)
        review_score = _just_above(review.value / threshold)
        if review_score is None:
            warnings.append(
                f"there is no review band: the limit for {config.target_review_rate:.2%} is not below the threshold; "
                "hold out more normal images or ask for a larger review rate"
            )
    if threshold > _LAX * median:
        warnings.append(
            f"the threshold is {threshold / median:.0f} times the median normal score: hold out more normal images"
        )
    warnings += _outliers(values, names)
    return Calibration(
        score_threshold=threshold,
        map_threshold=threshold,
        review_score=review_score,
        target_false_reject_rate=rate,
        target_review_rate=config.target_review_rate,
        normal_images=count,
        method=_method(fail),
        assumption=fail.assumption,
        attainable_rate=attainable_rate(count),
        false_reject_interval=fail.interval(),
        review_interval=review.interval() if review and review_score else None,
        median_score=median,
        region_share=float(((values <= threshold) & (peaks >= threshold)).mean()),
        warnings=tuple(warnings),
    )


def calibrate_run(
    run: TrainedRun,
    root: Path,
    *,
    config: CalibrationConfig | None = None,
    further: Sequence[Sample] = (),
    batch_size: int = 16,
    report: Reporter = silent,
) -> Calibration:
    """Calibrate a run on its own held-out images, and write the result into its directory.

    Args:
        run: A finished run.
        root: The data folder that it was trained on; it may have moved.
        config: The rates to keep; those of the run's configuration by default.
        further: Good images from elsewhere that calibrate with the held-out ones; the run has not seen them.
        batch_size: Images at a time.
        report: Told how far it is.

    Raises:
        CalibrationError: The run's images are gone or altered, a further one is one of them, or the scores are of no
            use.
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
    further_images = _check_unseen(further, [*held_out, *(samples[name] for name in data.train_images)])
    used = [*held_out, *further]
    frames = load_frames(
        used, run.config.input, progress=lambda done, total: report("reading held-out images", done, total)
    )
    raw = score_frames(run.network, frames.pixels, batch_size=batch_size, report=report)
    names = [*data.holdout_images, *(str(sample.path) for sample in further)]
    rates = config or run.config.calibration
    calibration = calibrate(raw.scores, raw.maps.max(axis=(1, 2)), rates, names)
    reference, gates = _what_is_normal(frames.pixels, raw.scores / calibration.score_threshold)
    doubts = _differing(raw.scores[: len(held_out)], raw.scores[len(held_out) :])
    if reference is None or gates is None:
        doubts.append(
            f"{counted(len(used), 'normal image')} cannot tell what normal images are like: a bundle will bring no "
            f"gates below {LEAST_FOR_GATES}, and no reference to tell a drift by below {LEAST_FOR_REFERENCE}"
        )
    added = {"further_images": further_images, "reference": reference, "gates": gates}
    calibration = calibration.model_copy(update={**added, "warnings": (*calibration.warnings, *doubts)})
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


def _check_unseen(further: Sequence[Sample], known: Sequence[Sample]) -> dict[str, str]:
    """No image may count twice, nor calibrate the network that was trained on it; returns the sha256 by path."""
    seen = set(file_digests(known)) if further else set()
    repeated, digests = [], dict[str, str]()
    for sample, digest in zip(further, file_digests(further), strict=True):
        if digest in seen:
            repeated.append(str(sample.path))
        seen.add(digest)
        digests[str(sample.path)] = digest
    if repeated:
        raise CalibrationError(
            list_problems(repeated, "the run knows already, or given twice; each image may count once")
        )
    return digests


def _differing(held_out: NDArray[np.float32], further: NDArray[np.float32]) -> list[str]:
    """Whether further images score as those of the run do, by the rank test of Mann and Whitney."""
    if not len(further) or mannwhitneyu(held_out, further).pvalue >= _STRANGE:
        return []
    medians = np.median(held_out), np.median(further)
    return [
        "the further good images score unlike those held out, medians "
        f"{medians[1]:.4g} and {medians[0]:.4g}: see whether they are of the same product, camera and light"
    ]


def _what_is_normal(frames: UInt8Array, scores: NDArray[np.float32]) -> tuple[Reference | None, Gates | None]:
    """From frames `uint8 [N, H, W, C]` of normal images and their calibrated scores `[N]`."""
    qualities = [measure(frame) for frame in frames]
    reference = gates = None
    if len(frames) >= LEAST_FOR_REFERENCE:
        brightness = [quality.brightness for quality in qualities]
        reference = Reference.of(scores, brightness, [quality.sharpness for quality in qualities])
    if len(frames) >= LEAST_FOR_GATES:
        gates = learn_gates(qualities)
    return reference, gates


def _fail_limit(values: NDArray[np.float64], rate: float) -> PredictionLimit:
    limit = upper_limit(values, rate)
    if limit.value <= 0:
        raise CalibrationError(f"a threshold of {limit.value} cannot be used: too many normal images score 0")
    return limit


def _method(limit: PredictionLimit) -> str:
    if limit.rank is not None:
        return f"split conformal: rank {limit.rank} of {limit.count} normal scores"
    needed = images_needed(limit.rate)
    return f"exponential tail of {limit.count} normal scores (split conformal needs {needed})"


def _doubts(what: str, limit: PredictionLimit) -> list[str]:
    if limit.assumption is None:
        return []
    return [
        f"{counted(limit.count, 'normal image')} cannot promise a {what} rate of {limit.rate:.2%} without assuming "
        f"that {limit.assumption}; {images_needed(limit.rate)} are needed, and these can promise "
        f"{attainable_rate(limit.count):.2%}"
    ]


def _just_above(calibrated: float) -> float | None:
    """The first calibrated score above a limit: review is *from* it. None where no score below 1 is left."""
    above = math.nextafter(calibrated, math.inf)
    return above if calibrated > 0 and above < 1 else None


def _outliers(values: NDArray[np.float64], names: Sequence[str] | None) -> list[str]:
    logs = np.log(np.maximum(values, values[values > 0].min()))
    spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    if spread == 0:
        return []
    far = [index for index in np.argsort(-logs) if logs[index] - np.median(logs) > _OUTLIER * spread]
    which = ", ".join(names[index] if names else f"number {index + 1}" for index in far[:5])
    return [f"{len(far)} of the normal images far above the others; see whether good: {which}"] if far else []


def _check_usable(values: NDArray[np.float64]) -> None:
    if len(values) < MIN_IMAGES:
        raise CalibrationError(
            f"too few normal images for a threshold: {len(values)} held out or given, {MIN_IMAGES} the least; give "
            "further good images with --good DIR, or add some or raise training.holdout_fraction, and train again"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise CalibrationError("scores of normal images must be finite and not negative")
    if not values.any():
        raise CalibrationError("all normal images score 0: the network is not trained")
