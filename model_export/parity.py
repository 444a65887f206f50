"""The parity gate: what is published scores as what was trained, on real frames, or it is not published."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from atsnet.data.layout import Sample
from atsnet.evaluation.metrics import image_auroc
from atsnet.imaging import Float32Array, InputGeometry, UInt8Array, read_image, to_frame
from model_export.bundle import Calibration, ParitySummary, Precision, Verdict
from model_export.scorers import Scorer

_MAX_NAMED: Final = 10
_ROUNDING: Final = 1e-5
"""Relative; some float32 steps. A threshold may be the very score of a frame, and then this decides its verdict."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParityLimits(_Model):
    """How far a graph may be from the network that it was made from."""

    score_relative: float = Field(default=1e-4, gt=0)
    """Largest difference of a raw score, relative to the score (or to a tenth of the threshold, if that is larger)."""
    map_relative: float = Field(default=1e-2, gt=0)
    """Largest difference of a map's pixel, relative to the pixel (or to the map threshold, if that is larger). Rounding
    can swap a place's nearest prototype for another as near, which moves the map there by some thousandths."""
    flipped_verdicts: int = Field(default=0, ge=0)
    flipped_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the frames whose verdicts may flip, where that is more; of few frames it is none."""
    auroc_absolute: float = Field(default=0.002, gt=0)
    """Largest difference of the image AUROC, where both good and defective frames were compared."""
    tie_relative: float = Field(default=_ROUNDING, gt=0)
    """How far the candidate's score of a frame that *is* the threshold may be from it for its verdict not to count."""

    def flips(self, frames: int) -> int:
        """How many verdicts of so many frames may flip."""
        return max(self.flipped_verdicts, math.floor(self.flipped_share * frames))


LIMITS: Final[Mapping[Precision, ParityLimits]] = {
    "float32": ParityLimits(),
    # Half-precision features swap prototypes that are equally near, which moves single places of the map; see
    # docs/model/precision.md for what was measured.
    "float16": ParityLimits(score_relative=0.1, map_relative=0.25, tie_relative=0.05),
    "int8": ParityLimits(score_relative=0.1, map_relative=0.25, flipped_share=0.002, tie_relative=0.05),
}


class FrameParity(_Model):
    """The two answers to one frame."""

    name: str
    reference_score: float
    score: float
    score_relative: float
    map_absolute: float
    """Largest difference of a pixel, in units of the map threshold."""
    map_relative: float
    reference_verdict: Verdict
    verdict: Verdict
    on_boundary: bool
    """Whether both scores are on a verdict's boundary, but for rounding: then neither verdict is wrong."""

    @property
    def flipped(self) -> bool:
        """Whether the part would have been treated otherwise, and not by mere rounding."""
        return self.verdict != self.reference_verdict and not self.on_boundary

    def within(self, limits: ParityLimits) -> bool:
        """Whether score and map are close enough; NaN never is."""
        return self.score_relative <= limits.score_relative and self.map_relative <= limits.map_relative


class ParityReport(_Model):
    """How a graph compares with its reference over a set of frames."""

    reference: str
    candidate: str
    limits: ParityLimits
    frames: int
    score_absolute_max: float
    score_absolute_mean: float
    score_relative_max: float
    score_relative_mean: float
    map_absolute_max: float
    map_absolute_mean: float
    reference_auroc: float | None = None
    """Image AUROC of the reference; None where good or defective frames were missing."""
    auroc: float | None = None
    flipped: tuple[FrameParity, ...]
    """Frames with another verdict."""
    ties: tuple[FrameParity, ...]
    """Frames with another verdict, whose score is the threshold itself but for rounding; they are let pass."""
    beyond: tuple[FrameParity, ...]
    """Frames whose score or map is beyond the limits."""

    @property
    def accepted(self) -> bool:
        """Whether the graph may be published."""
        return (
            not self.beyond
            and len(self.flipped) <= self.limits.flips(self.frames)
            and self.auroc_difference <= self.limits.auroc_absolute
        )

    @property
    def auroc_difference(self) -> float:
        """Absolute; 0 where there is no AUROC."""
        if self.auroc is None or self.reference_auroc is None:
            return 0.0
        return abs(self.auroc - self.reference_auroc)

    def summary(self) -> ParitySummary:
        """What the manifest keeps of it."""
        return ParitySummary(
            reference=self.reference,
            candidate=self.candidate,
            frames=self.frames,
            score_relative_max=self.score_relative_max,
            score_relative_mean=self.score_relative_mean,
            map_absolute_max=self.map_absolute_max,
            map_absolute_mean=self.map_absolute_mean,
            flipped_verdicts=len(self.flipped),
            reference_auroc=self.reference_auroc,
            auroc=self.auroc,
        )


class ParityError(Exception):
    """A graph does not score as the network that it was made from; the message names the frames."""

    def __init__(self, report: ParityReport) -> None:
        self.report = report
        limits = report.limits
        lines = [
            f"{report.candidate} differs from {report.reference}: {len(report.beyond)} of {report.frames} frames are "
            f"beyond the limits (score {limits.score_relative:g}, map {limits.map_relative:g}, relative), "
            f"{len(report.flipped)} verdicts flipped ({limits.flips(report.frames)} allowed), the AUROC differs by "
            f"{report.auroc_difference:.2g} ({limits.auroc_absolute:g}); it is not used"
        ]
        offending = list({frame.name: frame for frame in (*report.flipped, *report.beyond)}.values())
        lines += [
            f"  {frame.name}: score {frame.reference_score:.6g} -> {frame.score:.6g}, "
            f"map differs by {frame.map_absolute:.3g}, {frame.reference_verdict} -> {frame.verdict}"
            for frame in offending[:_MAX_NAMED]
        ]
        if len(offending) > _MAX_NAMED:
            lines.append(f"  and {len(offending) - _MAX_NAMED} more")
        super().__init__("\n".join(lines))


def compare(
    reference: Scorer,
    candidate: Scorer,
    frames: Iterable[tuple[str, UInt8Array]],
    calibration: Calibration,
    limits: ParityLimits | None = None,
    batch_size: int = 8,
    defective: Sequence[bool] | None = None,
) -> ParityReport:
    """Score frames twice.

    Args:
        reference: What is right.
        candidate: What is to be published.
        frames: Names and pixels, `uint8 [H, W, C]`; read once, `batch_size` held at a time.
        calibration: Draws the verdicts.
        limits: What `ParityReport.accepted` goes by; float32's by default.
        batch_size: Frames at a time.
        defective: What each frame shows, for the AUROC; None where that is not known.

    Raises:
        ValueError: There are no frames, or not as many as labels.
    """
    limits = limits or LIMITS["float32"]
    results: list[FrameParity] = []
    map_means: list[float] = []
    for names, pixels in _batches(frames, batch_size):
        expected, found = reference(pixels), candidate(pixels)
        for row, name in enumerate(names):
            results.append(
                _compare_frame(
                    name,
                    float(expected[0][row]),
                    float(found[0][row]),
                    expected[1][row],
                    found[1][row],
                    calibration,
                    limits.tie_relative,
                )
            )
            map_means.append(float(np.abs(found[1][row] - expected[1][row]).mean()))
    if not results:
        raise ValueError("parity needs frames to be measured on; none were given")
    reference_auroc = auroc = None
    if defective is not None:
        if len(defective) != len(results):
            raise ValueError(f"{len(defective)} labels cannot be those of {len(results)} frames")
        finite = all(math.isfinite(frame.score) and math.isfinite(frame.reference_score) for frame in results)
        if finite:
            reference_auroc = image_auroc(defective, [frame.reference_score for frame in results])
            auroc = image_auroc(defective, [frame.score for frame in results])
    absolute = np.array([abs(frame.score - frame.reference_score) for frame in results])
    relative = np.array([frame.score_relative for frame in results])
    return ParityReport(
        reference=reference.description,
        candidate=candidate.description,
        limits=limits,
        frames=len(results),
        score_absolute_max=float(absolute.max()),
        score_absolute_mean=float(absolute.mean()),
        score_relative_max=float(relative.max()),
        score_relative_mean=float(relative.mean()),
        map_absolute_max=float(np.max([frame.map_absolute for frame in results])),
        map_absolute_mean=float(np.mean(map_means)),
        reference_auroc=reference_auroc,
        auroc=auroc,
        flipped=tuple(frame for frame in results if frame.flipped),
        ties=tuple(frame for frame in results if frame.on_boundary and frame.verdict != frame.reference_verdict),
        beyond=tuple(frame for frame in results if not frame.within(limits)),
    )


def require_parity(report: ParityReport) -> None:
    """Let a graph pass or not.

    Raises:
        ParityError: It must not be published.
    """
    if not report.accepted:
        raise ParityError(report)


def read_frames(samples: Sequence[Sample], geometry: InputGeometry) -> Iterator[tuple[str, UInt8Array]]:
    """Names and frames of image files, one at a time; errors are those of `read_image`."""
    for sample in samples:
        yield sample.name, to_frame(read_image(sample.path), geometry).pixels


def evenly(samples: Sequence[Sample], limit: int) -> Sequence[Sample]:
    """At most `limit` of the samples, from all over them."""
    if len(samples) <= limit:
        return samples
    return [samples[index * len(samples) // limit] for index in range(limit)]


def _compare_frame(
    name: str,
    reference_score: float,
    score: float,
    reference_map: Float32Array,
    anomaly_map: Float32Array,
    calibration: Calibration,
    tie_relative: float,
) -> FrameParity:
    # A score near zero is a difference of two nearly equal numbers: its own size says nothing about precision.
    scale = max(abs(reference_score), 0.1 * calibration.score_threshold)
    finite = bool(np.isfinite(anomaly_map).all() and np.isfinite(reference_map).all()) and math.isfinite(score)
    difference = np.abs(anomaly_map - reference_map)
    return FrameParity(
        name=name,
        reference_score=reference_score,
        score=score,
        score_relative=abs(score - reference_score) / scale if finite else math.inf,
        map_absolute=float(difference.max()),
        map_relative=float((difference / np.maximum(1, np.abs(reference_map))).max()) if finite else math.inf,
        reference_verdict=calibration.verdict(reference_score),
        verdict=calibration.verdict(score),
        on_boundary=any(
            abs(reference_score / calibration.score_threshold - edge) <= _ROUNDING * edge
            and abs(score / calibration.score_threshold - edge) <= tie_relative * edge
            for edge in calibration.boundaries
        ),
    )


def _batches(frames: Iterable[tuple[str, UInt8Array]], batch_size: int) -> Iterator[tuple[tuple[str, ...], UInt8Array]]:
    rest = iter(frames)
    while batch := list(islice(rest, batch_size)):
        names, pixels = zip(*batch, strict=True)
        yield names, np.stack(pixels)
