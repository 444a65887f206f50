"""From a training run to a bundle under `weights/`: exported, compared, recorded, described, and published at once."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from atsnet.calibration import Calibration as RunCalibration
from atsnet.data.layout import Sample
from atsnet.network.atsnet import MAP_STRIDE
from atsnet.network.summary import summarise
from atsnet.training.run_directory import TrainedRun
from model_export.bundle import (
    NAME_PATTERN,
    Bundle,
    Calibration,
    FileEntry,
    Manifest,
    Precision,
    Speed,
    describe_file,
    load_bundle,
    write_manifest,
)
from model_export.golden import (
    MARGIN,
    GoldenChoice,
    check_golden_samples,
    choose_golden_samples,
    record_golden_samples,
)
from model_export.graph import DeployableGraph
from model_export.model_card import render_model_card
from model_export.onnx_file import to_onnx
from model_export.parity import LIMITS, ParityLimits, ParityReport, compare, evenly, read_frames, require_parity
from model_export.precision import to_float16, with_rounding
from model_export.quantization import to_int8
from model_export.scorers import OnnxScorer, Scorer
from model_export.speed import measure_speed
from model_export.torch_scorer import TorchScorer

GRAPH_NAMES: Final[Mapping[Precision, str]] = {
    "float32": "model.onnx",
    "float16": "model.float16.onnx",
    "int8": "model.int8.onnx",
}
PARITY_NAMES: Final[Mapping[Precision, str]] = {
    "float32": "parity.json",
    "float16": "parity.float16.json",
    "int8": "parity.int8.json",
}
CARD_NAME: Final = "MODEL_CARD.md"
METRICS_PATH: Final = Path("evaluation") / "metrics.json"
"""Where an evaluated run keeps its metrics, below the run's directory."""

SCORE_TOLERANCES: Final[Mapping[Precision, float]] = {"float32": 1e-3, "float16": 5e-2, "int8": 1e-2}
"""Of the self-test: other processors and kernels round differently, which parity on one machine does not show."""


RANGE_FRAMES: Final = 50
"""Normal frames that the ranges of INT8 are learned from; more hardly widen them."""
_TIMED_FRAMES: Final = 20


class ExportError(Exception):
    """A bundle cannot be made as asked; the message says why. Nothing was published."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a bundle is called. All three are lower-case words of `a-z 0-9 . _ -`."""

    name: str
    version: str
    product: str
    """The product that it inspects; names the recipe that the service makes for it."""

    def __post_init__(self) -> None:
        for field in ("name", "version", "product"):
            value = getattr(self, field)
            if not re.fullmatch(NAME_PATTERN, value):
                raise ExportError(
                    f"{field} {value!r} cannot be used: it must start with a lower-case letter or digit and go on with "
                    "at most 63 of these, '.', '_' and '-'"
                )


@dataclass(frozen=True, slots=True)
class Exported:
    """A published bundle, and how its graphs compared with the network."""

    bundle: Bundle
    parities: Mapping[Precision, ParityReport]

    @property
    def parity(self) -> ParityReport:
        """Of the float32 graph."""
        return self.parities["float32"]


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph on its way into a bundle."""

    content: bytes
    scorer: Scorer
    """How it answers, as far as this machine can tell."""
    parity: ParityReport
    speed: Speed


def export_bundle(
    run: TrainedRun,
    calibration: RunCalibration,
    identity: Identity,
    *,
    weights_root: Path,
    parity_samples: Sequence[Sample],
    golden_samples: Sequence[Sample],
    precisions: Sequence[Precision] = ("float32",),
    range_samples: Sequence[Sample] = (),
    golden_choice: GoldenChoice | None = None,
    parity_limits: Mapping[Precision, ParityLimits] | None = None,
    score_tolerances: Mapping[Precision, float] | None = None,
    metrics: dict[str, Any] | None = None,
    created: datetime | None = None,
) -> Exported:
    """Make `<weights_root>/<name>/<version>/` of a trained and calibrated run.

    The bundle is built beside its place and renamed into it when everything is right, so a half one is never seen.

    Args:
        run: The trained network and its record.
        calibration: Its thresholds.
        identity: The bundle's names; the version must not exist yet.
        weights_root: Where bundles live.
        parity_samples: Real images, good and defective, to compare PyTorch and ONNX Runtime on.
        golden_samples: Labelled images to choose the self-test's from.
        precisions: Of the graphs; float32 is always among them, the others are measured against it.
        range_samples: Images of good parts that int8 learns its ranges from; `RANGE_FRAMES` of them are taken.
        golden_choice: How many of these to take.
        parity_limits: Beyond these nothing is published; `parity.LIMITS` by default.
        score_tolerances: What the self-test at a station will accept, relative; `SCORE_TOLERANCES` by default.
        metrics: Of the evaluation; by default those that the run's directory holds, if it was evaluated.
        created: Time to put into the manifest; now by default.

    Raises:
        ExportError: The version exists, there are no images for the gate or for int8's ranges, or the directory cannot
            be written.
        OnnxExportError: The network does not export cleanly.
        ParityError: A graph does not score as the network.
        GoldenSampleError: There is nothing to choose golden samples from, or they do not repeat.
        ImageError: An image cannot be read.
    """
    target = weights_root / identity.name / identity.version
    if target.exists():
        raise ExportError(f"{target} exists, and bundles never change; choose another version")
    if not parity_samples:
        raise ExportError("no images to compare PyTorch and ONNX Runtime on; give some real ones, good and defective")
    thresholds = Calibration.model_validate(calibration.deployed())
    metrics = _read_metrics(run.directory) if metrics is None else metrics

    tolerances = {**SCORE_TOLERANCES, **(score_tolerances or {})}
    graphs = _make_graphs(
        run, thresholds, parity_samples, precisions, {**LIMITS, **(parity_limits or {})}, range_samples
    )
    scorers = {precision: graph.scorer for precision, graph in graphs.items()}
    reference = scorers.pop("float32")
    # What lies in a precision's tolerance must lie on one side of the threshold.
    margin = max(MARGIN, *(tolerances[precision] for precision in graphs))
    chosen = choose_golden_samples(golden_samples, reference, run.config.input, thresholds, golden_choice, margin)

    with _staging(target) as directory:
        for precision, graph in graphs.items():
            (directory / GRAPH_NAMES[precision]).write_bytes(graph.content)
            report = graph.parity.model_dump_json(indent=2) + "\n"
            (directory / PARITY_NAMES[precision]).write_text(report, encoding="utf-8")
        golden = record_golden_samples(chosen, directory, reference, run.config.input, thresholds, scorers)
        manifest = Manifest(
            name=identity.name,
            version=identity.version,
            product=identity.product,
            created=created or datetime.now(UTC).replace(microsecond=0),
            graphs={precision: GRAPH_NAMES[precision] for precision in graphs},
            input=run.config.input,
            map_height=run.config.input.height // MAP_STRIDE,
            map_width=run.config.input.width // MAP_STRIDE,
            calibration=thresholds,
            reference=calibration.reference,
            gates=calibration.gates,
            golden_samples=tuple(golden),
            score_tolerance=tolerances["float32"],
            score_tolerances={precision: tolerances[precision] for precision in scorers},
            parity={precision: graph.parity.summary() for precision, graph in graphs.items()},
            speeds={precision: graph.speed for precision, graph in graphs.items()},
            network=run.config.network.model_dump(mode="json"),
            training=_training(run, thresholds),
            data=_data(run),
            metrics=metrics,
            backbone=run.record.backbone.model_dump(mode="json"),
            files=_entries(directory),
        )
        parities = {precision: graph.parity for precision, graph in graphs.items()}
        parameters = summarise(run.config).parameters
        card = render_model_card(manifest, parities, parameters=parameters, cautions=calibration.warnings)
        (directory / CARD_NAME).write_text(card, encoding="utf-8")
        write_manifest(directory, manifest.model_copy(update={"files": _entries(directory)}))
        built = load_bundle(directory)
        for precision in graphs:
            check_golden_samples(built, OnnxScorer(built.graph(precision).read_bytes()), precision)
    return Exported(load_bundle(target), parities)


def _make_graphs(
    run: TrainedRun,
    thresholds: Calibration,
    samples: Sequence[Sample],
    precisions: Sequence[Precision],
    limits: Mapping[Precision, ParityLimits],
    range_samples: Sequence[Sample],
) -> dict[Precision, _Graph]:
    """Graphs that passed the gate: float32 against the network in PyTorch, the others against float32."""
    geometry = run.config.input
    unknown = sorted(set(precisions) - set(GRAPH_NAMES))
    if unknown:
        raise ExportError(f"cannot export {', '.join(unknown)}; there are: {', '.join(GRAPH_NAMES)}")
    if "int8" in precisions and not range_samples:
        raise ExportError("no images of good parts to learn the ranges of int8 from; give some that it was trained on")
    timed = [pixels for _, pixels in read_frames(samples[:_TIMED_FRAMES], geometry)]

    def admit(reference: Scorer, content: bytes, scorer: Scorer, precision: Precision) -> _Graph:
        frames, labels = read_frames(samples, geometry), [sample.defective for sample in samples]
        parity = compare(reference, scorer, frames, thresholds, limits[precision], defective=labels)
        require_parity(parity)
        return _Graph(content, scorer, parity, measure_speed(OnnxScorer(content), timed))

    content = to_onnx(DeployableGraph(run.network, thresholds.map_threshold), geometry)
    network = TorchScorer(run.network, thresholds.map_threshold)
    graphs: dict[Precision, _Graph] = {"float32": admit(network, content, OnnxScorer(content), "float32")}
    reference = graphs["float32"].scorer
    if "float16" in precisions:
        half = to_float16(content)
        rounding = OnnxScorer(with_rounding(half), "every half-precision result rounded")
        graphs["float16"] = admit(reference, half, rounding, "float16")
    if "int8" in precisions:
        chosen = evenly(range_samples, RANGE_FRAMES)
        quantised = to_int8(content, [pixels for _, pixels in read_frames(chosen, geometry)])
        graphs["int8"] = admit(reference, quantised, OnnxScorer(quantised, "int8"), "int8")
    return graphs


def _read_metrics(run_directory: Path) -> dict[str, Any]:
    path = run_directory / METRICS_PATH
    if not path.is_file():
        return {}
    try:
        metrics = json.loads(path.read_bytes())
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}; evaluate the run again") from error
    if not isinstance(metrics, dict):
        raise ExportError(f"{path} holds no JSON object; evaluate the run again")
    return metrics


def _training(run: TrainedRun, thresholds: Calibration) -> dict[str, Any]:
    config, record = run.config.model_dump(mode="json"), run.record
    return {
        **{key: config[key] for key in ("training", "augment")},
        # A run can be calibrated for other rates than it was trained with.
        "calibration": {key: getattr(thresholds, key) for key in config["calibration"]},
        "losses": record.losses,
        "seconds": record.seconds,
        "atsnet_version": record.atsnet_version,
        "torch_version": record.torch_version,
    }


def _data(run: TrainedRun) -> dict[str, Any]:
    data = run.record.data
    return {
        "layout": data.layout,
        "root": data.root,
        "train_images": len(data.train_images),
        "holdout_images": len(data.holdout_images),
        "sha256": data.sha256,
    }


def _entries(directory: Path) -> dict[str, FileEntry]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): describe_file(path) for path in paths}


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A hidden directory beside `target` that becomes it when the block ends well, and vanishes when it does not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ExportError(f"{target.parent} cannot be written: {error.strerror}") from error
    try:
        yield directory
        for path in directory.rglob("*"):
            _sync(path)
        _sync(directory)
        directory.chmod(0o755)  # temporary directories are private
        try:
            directory.rename(target)
        except OSError as error:  # somebody else published the same version meanwhile
            raise ExportError(f"{target} cannot be published: {error.strerror}") from error
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
