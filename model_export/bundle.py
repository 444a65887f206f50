"""The bundle: a directory with all that the service needs to inspect, and the manifest that vouches for it.

    <name>/<version>/
        manifest.json     this module's `Manifest`
        model.onnx        the deployable graph; other precisions beside it, as model.float16.onnx
        samples/*.png     golden samples: the images of the self-test
        samples/*.npy     their expected anomaly maps, float16 [h, w], for each precision
        MODEL_CARD.md     what it is, for people

Every file beside the manifest is listed in it with its sha256; the manifest's own sha256 is the bundle's `digest`.
This module imports neither torch nor onnxruntime, so that the service's runtime image needs no more than it does.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atsnet.imaging import Float32Array, InputGeometry
from atsnet.quality import Gates
from atsnet.reference import Reference

SCHEMA_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"

INPUT_NAME: Final = "images"
"""Of every graph: `uint8 [N, H, W, C]`."""
OUTPUT_NAMES: Final = ("score", "anomaly_map")
"""Raw scores `float32 [N]`, and calibrated maps `float32 [N, map_height, map_width]`."""

FLOAT16_MAX: Final = float(np.finfo(np.float16).max)

_MAP_TOLERANCES: Final = 10
"""How many of the score's tolerances a pixel of the map may be off by: rounding can swap a prototype for another."""
_FAINT: Final = 0.1
"""Calibrated score below which a difference is measured against this and not against the score itself."""
_FLOAT16_ROUNDING: Final = 2.0**-10
"""Relative: the expected maps are stored in half precision."""

Precision = Literal["float32", "float16", "int8"]
Verdict = Literal["pass", "review", "fail"]


class BundleError(Exception):
    """A bundle is missing, incomplete, altered or of another schema; the message names the file."""


class GoldenMismatchError(BundleError):
    """An answer to a golden sample is not the one that the bundle was validated with; the message has the figures."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Model):
    """What the manifest promises of one file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Calibration(_Model):
    """How raw scores become calibrated ones; learned from held-out normal images only.

    `calibrated score = raw score / score_threshold`; a calibrated score above 1 fails. The graph's anomaly map is
    calibrated already: it was divided by `map_threshold`, so that a pixel above 1 belongs to an anomalous region.
    """

    score_threshold: float = Field(gt=0, allow_inf_nan=False)
    map_threshold: float = Field(gt=0, allow_inf_nan=False)
    review_score: float | None = Field(default=None, gt=0, le=1)
    """Calibrated score from which a part is for a person to review; none by default."""
    target_false_reject_rate: float = Field(gt=0, lt=1)
    target_review_rate: float | None = Field(default=None, gt=0, lt=1)
    """Share of the good parts that may reach the review score, those that fail included."""
    normal_images: int = Field(ge=1)
    """Held-out normal images that the thresholds were learned from."""
    method: str

    @property
    def boundaries(self) -> tuple[float, ...]:
        """Calibrated scores at which the verdict changes."""
        return (1.0,) if self.review_score is None else (self.review_score, 1.0)

    def verdict(self, score: float) -> Verdict:
        """What a raw score means at the shipped thresholds; a score that is not a number fails."""
        calibrated = score / self.score_threshold
        if not calibrated <= 1:
            return "fail"
        return "review" if self.review_score is not None and calibrated >= self.review_score else "pass"


class GoldenAnswer(_Model):
    """What must be answered to a golden sample."""

    anomaly_map: str
    score: float = Field(allow_inf_nan=False)
    """Expected raw score."""
    verdict: Verdict


class GoldenSample(GoldenAnswer):
    """An image of the bundle with what this bundle's float32 graph must answer to it."""

    image: str
    label: str
    """What the image is known to show: `good` or the defect's name."""
    answers: dict[Precision, GoldenAnswer] = Field(default_factory=dict)
    """What the graphs of other precisions must answer."""


class ParitySummary(_Model):
    """How a graph compared with its reference on real frames before it was published."""

    reference: str
    candidate: str
    frames: int = Field(ge=1)
    score_relative_max: float
    score_relative_mean: float
    map_absolute_max: float
    """Largest difference of a pixel, in units of the map threshold."""
    map_absolute_mean: float
    flipped_verdicts: int = Field(ge=0)
    reference_auroc: float | None = None
    """Image AUROC of the reference, where good and defective frames were compared."""
    auroc: float | None = None


class Speed(_Model):
    """What a frame costs on the machine that made the bundle; another machine has other figures."""

    cpu: str
    """Name of the processor."""
    cpu_ms: float = Field(gt=0)
    """CPU time of one frame in ONNX Runtime on one thread, in ms; median."""
    frames: int = Field(ge=1)


class Manifest(_Model):
    """Everything that is known of a bundle, except its pixels and weights."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=NAME_PATTERN)
    product: str = Field(pattern=NAME_PATTERN)
    """The product that it inspects; names the recipe that the service makes for it."""
    created: datetime
    graphs: dict[Precision, str]
    """File name of the ONNX graph of each precision."""
    input: InputGeometry
    map_height: int = Field(gt=0)
    map_width: int = Field(gt=0)
    calibration: Calibration
    reference: Reference | None = None
    """What the calibration's normal images scored and looked like, on whole frames; older bundles, and those that were
    calibrated on very few, do not say. Scores are in units of the shipped threshold."""
    gates: Gates | None = None
    """What an image must be like to be inspected at all, learned from the same images; None in the same cases."""
    golden_samples: tuple[GoldenSample, ...] = Field(min_length=1)
    score_tolerance: float = Field(gt=0)
    """Largest relative difference of a golden sample's score that is accepted; see `Bundle.check_answer`."""
    score_tolerances: dict[Precision, float] = Field(default_factory=dict)
    """The same for precisions that have one of their own."""
    parity: dict[Precision, ParitySummary] = Field(default_factory=dict)
    """Of each graph; bundles that were made before there were several say nothing."""
    speeds: dict[Precision, Speed] = Field(default_factory=dict)
    """Of each graph, on a CPU whatever it was made for; older bundles say nothing."""
    network: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]
    """Where the training images came from: kind, number, sha256 of their content."""
    metrics: dict[str, Any]
    backbone: dict[str, str]
    """Source and licence of the backbone's weights."""
    files: dict[str, FileEntry]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest
    digest: str
    """sha256 of the manifest file, which in turn fixes every other file."""

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists.

        Raises:
            BundleError: The manifest lists no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path / MANIFEST_NAME} lists no file {name!r}; has: {sorted(self.manifest.files)}")
        return self.path / name

    def graph(self, precision: Precision = "float32") -> Path:
        """Path of the ONNX graph of a precision.

        Raises:
            BundleError: The bundle has no such graph.
        """
        try:
            return self.file(self.manifest.graphs[precision])
        except KeyError:
            have = ", ".join(sorted(self.manifest.graphs))
            raise BundleError(f"{self.path} has no {precision} graph; has: {have}") from None

    def golden_answer(self, sample: GoldenSample, precision: Precision = "float32") -> GoldenAnswer:
        """What the graph of a precision must answer to a golden sample.

        Raises:
            BundleError: The bundle does not say.
        """
        answer = sample if precision == "float32" else sample.answers.get(precision)
        if answer is None:
            raise BundleError(f"{self.path} does not say what {precision} must answer to {sample.image}")
        return answer

    def golden_map(self, answer: GoldenAnswer) -> Float32Array:
        """Expected calibrated anomaly map, `float32 [map_height, map_width]`."""
        stored = np.load(self.file(answer.anomaly_map), allow_pickle=False)
        return np.asarray(stored, np.float32)

    def check_answer(
        self, sample: GoldenSample, score: float, anomaly_map: Float32Array, precision: Precision = "float32"
    ) -> float:
        """Compare an answer to a golden sample with the one that was recorded.

        The score's tolerance is relative to the expected score, and to a tenth of the threshold where that is more:
        of two scores next to zero, one can be a multiple of the other and mean the same. A pixel of the
        map may be off by ten times as much, in units of its threshold (1.0), or of its peak where that is more.

        Args:
            sample: One of the manifest's.
            score: Raw score.
            anomaly_map: Calibrated, `float32 [map_height, map_width]`.
            precision: Of the graph that answered.

        Returns:
            Relative difference of the score.

        Raises:
            GoldenMismatchError: Score, verdict or map are others.
            BundleError: The bundle does not say what this precision must answer.
        """
        answer = self.golden_answer(sample, precision)
        calibration = self.manifest.calibration
        tolerance = self.manifest.score_tolerances.get(precision, self.manifest.score_tolerance)
        difference = abs(score - answer.score) / max(abs(answer.score), _FAINT * calibration.score_threshold)
        if not difference <= tolerance:
            raise GoldenMismatchError(
                f"{sample.image}: score {score:.6g}, expected {answer.score:.6g}: off by {difference:.2g} relative, "
                f"{tolerance:.2g} is allowed"
            )
        verdict = calibration.verdict(score)
        if verdict != answer.verdict:
            raise GoldenMismatchError(f"{sample.image}: verdict {verdict}, expected {answer.verdict}")
        expected = self.golden_map(answer)
        if anomaly_map.shape != expected.shape:
            raise GoldenMismatchError(f"{sample.image}: map of shape {anomaly_map.shape}, expected {expected.shape}")
        apart = np.abs(np.clip(anomaly_map, 0, FLOAT16_MAX) - expected)
        apart[~np.isfinite(anomaly_map)] = np.inf
        excess = apart - _MAP_TOLERANCES * tolerance * max(1.0, float(expected.max())) - _FLOAT16_ROUNDING * expected
        if excess.max() > 0:
            row, column = np.unravel_index(int(excess.argmax()), expected.shape)
            raise GoldenMismatchError(
                f"{sample.image}: the anomaly map differs, most at row {row}, column {column}: "
                f"{anomaly_map[row, column]:.6g}, expected {expected[row, column]:.6g}"
            )
        return float(difference)


def load_bundle(path: Path) -> Bundle:
    """Read a bundle's manifest and verify the sha256 of every file that it lists.

    Raises:
        BundleError: It is not there, its manifest is not valid, or a file is missing or altered.
    """
    manifest_path = path / MANIFEST_NAME
    try:
        content = manifest_path.read_bytes()
    except OSError as error:
        raise BundleError(f"no bundle at {path}: {manifest_path} cannot be read: {error.strerror}") from error
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(f"{manifest_path} is not a valid manifest: {error}") from error
    for name, entry in manifest.files.items():
        _verify(path, name, entry)
    used = [*manifest.graphs.values()]
    for sample in manifest.golden_samples:
        used += [sample.image, sample.anomaly_map, *(answer.anomaly_map for answer in sample.answers.values())]
    for name in used:
        if name not in manifest.files:
            raise BundleError(f"{manifest_path} uses {name!r}, but lists no sha256 for it")
    return Bundle(path, manifest, hashlib.sha256(content).hexdigest())


def list_bundles(root: Path) -> list[tuple[str, str]]:
    """Names and versions of the bundles under `root`, sorted; none of them is verified yet.

    Directories whose names no bundle can have, such as those of an export that is under way, are left out.
    """
    versions = (manifest.parent for manifest in sorted(root.glob(f"*/*/{MANIFEST_NAME}")))
    found = ((version.parent.name, version.name) for version in versions)
    return [pair for pair in found if all(re.fullmatch(NAME_PATTERN, part) for part in pair)]


def describe_file(path: Path) -> FileEntry:
    """Hash and measure a file for the manifest."""
    with path.open("rb") as file:
        return FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=file.tell())


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a bundle's manifest into its directory; it comes last, when every file that it lists is there."""
    (path / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _verify(root: Path, name: str, entry: FileEntry) -> None:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"{root / MANIFEST_NAME} lists {name!r}, which is outside the bundle")
    try:
        found = describe_file(path)
    except OSError as error:
        raise BundleError(f"{path} is listed in the manifest but cannot be read: {error.strerror}") from error
    if found != entry:
        raise BundleError(
            f"{path} is not the file that was validated: sha256 {found.sha256[:12]}… ({found.bytes} bytes), "
            f"the manifest says {entry.sha256[:12]}… ({entry.bytes} bytes)"
        )
