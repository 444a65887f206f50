"""Golden samples: images that travel in the bundle with the answers that it must give to them.

They prove at the station that the graph still answers as it did when it was validated. They are no measure of
quality: of each label, images are taken whose verdict is right, if there are any. None lies close to a boundary between
verdicts, where the rounding of another processor would fail the self-test.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from atsnet.data.layout import GOOD, Sample
from atsnet.imaging import Float32Array, InputGeometry, read_image, to_frame
from model_export.bundle import (
    FLOAT16_MAX,
    Bundle,
    Calibration,
    GoldenAnswer,
    GoldenMismatchError,
    GoldenSample,
    Precision,
)
from model_export.scorers import Scorer

SAMPLES_FOLDER: Final = "samples"
MARGIN: Final = 0.02
"""Least distance of a golden sample's calibrated score from any boundary between verdicts."""
_FAINT: Final = 0.05
"""Calibrated score below which relative differences say little; such images are taken only for want of others."""


class GoldenSampleError(Exception):
    """Golden samples cannot be recorded, or a bundle does not answer to them as it must."""


@dataclass(frozen=True, slots=True)
class GoldenChoice:
    """How many golden samples to take."""

    good: int = 2
    per_defect: int = 1
    candidates: int = 12
    """Images of each label to choose among, the first ones."""


def choose_golden_samples(
    samples: Sequence[Sample],
    scorer: Scorer,
    geometry: InputGeometry,
    calibration: Calibration,
    choice: GoldenChoice | None = None,
    margin: float = MARGIN,
) -> list[Sample]:
    """Choose, of each label, typical images: rightly judged if possible, with scores in the middle of those.

    None has a calibrated score within `margin` of a boundary between verdicts.

    Raises:
        GoldenSampleError: There is no image to choose.
        ImageError: An image cannot be read.
    """
    choice = choice or GoldenChoice()
    by_label: dict[str, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.label, []).append(sample)
    chosen: list[Sample] = []
    for label in sorted(by_label, key=lambda label: (label != GOOD, label)):
        candidates = by_label[label][: choice.candidates]
        scored = [(_score(sample.path, scorer, geometry)[0], sample) for sample in candidates]
        usable = [item for item in scored if _distance_to_boundary(item[0], calibration) >= margin]
        chosen += _rank(usable, label, calibration)[: choice.good if label == GOOD else choice.per_defect]
    if not chosen:
        raise GoldenSampleError(
            "a bundle needs golden samples; give at least one image whose score is not close to a threshold"
        )
    return chosen


def record_golden_samples(
    samples: Sequence[Sample],
    directory: Path,
    scorer: Scorer,
    geometry: InputGeometry,
    calibration: Calibration,
    others: Mapping[Precision, Scorer] | None = None,
) -> list[GoldenSample]:
    """Copy images into a bundle's directory as 8-bit PNG of the original size, and write down what is answered to them.

    Args:
        samples: Images to take, all of them.
        directory: The bundle's; files go to `samples/` below it, named by label and number.
        scorer: The float32 graph in the reference runtime.
        geometry: What the graph takes.
        calibration: Draws the verdicts.
        others: The same for other precisions.

    Raises:
        GoldenSampleError: An image cannot be encoded, the answer to it is not finite, or too close to a boundary.
        ImageError: An image cannot be read.
    """
    (directory / SAMPLES_FOLDER).mkdir()
    numbers: Counter[str] = Counter()
    golden: list[GoldenSample] = []
    for sample in samples:
        word = re.sub(r"[^a-z0-9]+", "_", sample.label.lower()).strip("_") or "sample"
        stem = f"{SAMPLES_FOLDER}/{word}_{numbers[word]}"
        numbers[word] += 1
        encoded, content = cv2.imencode(".png", read_image(sample.path), [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if not encoded:
            raise GoldenSampleError(f"{sample.path} cannot be encoded as PNG")
        image = directory / f"{stem}.png"
        image.write_bytes(content.tobytes())
        answers: dict[Precision, GoldenAnswer] = {}
        scorers: dict[Precision, Scorer] = {"float32": scorer, **(others or {})}
        for precision, scores in scorers.items():
            score, anomaly_map = _score(image, scores, geometry)
            if not (np.isfinite(score) and np.isfinite(anomaly_map).all()):
                raise GoldenSampleError(f"the answer to {sample.path} is not finite; the network's weights are damaged")
            if _distance_to_boundary(score, calibration) < MARGIN:
                raise GoldenSampleError(
                    f"{sample.path} scores {score / calibration.score_threshold:.4g} (calibrated), too close to a "
                    "boundary between verdicts for a golden sample"
                )
            name = f"{stem}.npy" if precision == "float32" else f"{stem}.{precision}.npy"
            np.save(directory / name, np.clip(anomaly_map, 0, FLOAT16_MAX).astype(np.float16))
            answers[precision] = GoldenAnswer(anomaly_map=name, score=score, verdict=calibration.verdict(score))
        golden.append(
            GoldenSample(
                image=f"{stem}.png",
                label=sample.label,
                **answers.pop("float32").model_dump(),
                answers=answers,
            )
        )
    return golden


def check_golden_samples(bundle: Bundle, scorer: Scorer, precision: Precision = "float32") -> Mapping[str, float]:
    """Inspect a bundle's golden samples with its graph of a precision.

    Returns:
        Relative score difference of each sample's image.

    Raises:
        GoldenSampleError: A score differs by more than the bundle's tolerance, a verdict or a map is another one.
    """
    differences: dict[str, float] = {}
    for sample in bundle.manifest.golden_samples:
        score, anomaly_map = _score(bundle.file(sample.image), scorer, bundle.manifest.input)
        try:
            differences[sample.image] = bundle.check_answer(sample, score, anomaly_map, precision)
        except GoldenMismatchError as error:
            raise GoldenSampleError(f"{bundle.path}: {error}") from error
    return differences


def _rank(scored: Sequence[tuple[float, Sample]], label: str, calibration: Calibration) -> list[Sample]:
    """The best golden samples of a label first."""
    wanted = "pass" if label == GOOD else "fail"
    right = [item for item in scored if calibration.verdict(item[0]) == wanted]
    if not right:  # the clearest of those that are judged wrong
        ranked = sorted(scored, key=lambda item: (item[0] if label == GOOD else -item[0], item[1].name))
        return [sample for _, sample in ranked]
    middle = float(np.median([score for score, _ in right]))
    faint = _FAINT * calibration.score_threshold
    ranked = sorted(right, key=lambda item: (item[0] < faint, abs(item[0] - middle), item[1].name))
    return [sample for _, sample in ranked]


def _distance_to_boundary(score: float, calibration: Calibration) -> float:
    return min(abs(score / calibration.score_threshold - boundary) for boundary in calibration.boundaries)


def _score(path: Path, scorer: Scorer, geometry: InputGeometry) -> tuple[float, Float32Array]:
    scores, maps = scorer(to_frame(read_image(path), geometry).pixels[np.newaxis])
    return float(scores[0]), maps[0]
