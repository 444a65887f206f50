"""One cell of a benchmark: a method learns from the good images of a part, is calibrated and assessed on its test set.

cells/<part>/<variant>/seed-<n>.json    `CellResult`, once the cell is finished
runs/<part>/<variant>/seed-<n>/         the run directory of ATS-Net
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from atsnet import __version__
from atsnet.backbones import load_backbone
from atsnet.baselines.detector import DetectorSize
from atsnet.baselines.methods import METHODS, MakeDetector
from atsnet.benchmark.plan import ATS_NET, Cell, CellInputs
from atsnet.calibration import Calibration, calibrate, save_calibration
from atsnet.data.frames import load_frames
from atsnet.data.layout import split_holdout
from atsnet.evaluation.assessment import EvaluationReport, TestSet, Thresholds, assess, load_test_set
from atsnet.evaluation.cost import describe_device, median_latency
from atsnet.evaluation.scoring import RawScores, score_frames
from atsnet.imaging import InputGeometry, UInt8Array
from atsnet.network.backbone import ResNet18Trunk
from atsnet.network.summary import summarise
from atsnet.progress import Reporter, silent
from atsnet.training.run_directory import MODEL_NAME, START_NAME, BackboneSource, RunError, TrainedRun, load_run
from atsnet.training.train import train_run

CELLS: Final = "cells"
RUNS: Final = "runs"


class Score(Protocol):
    """What a method that has learned does to frames."""

    def __call__(self, pixels: UInt8Array, *, report: Reporter = silent) -> RawScores:
        """Score frames; see `atsnet.baselines.detector.Detector.score`."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Speed(_Model):
    """How long a frame takes, from its pixels to score and map, one at a time."""

    ms: float
    """Median."""
    device: str
    threads: int
    """Of the CPU."""
    jobs: int
    """Cells that ran side by side, this one included."""


class Size(_Model):
    """What the detector stores and computes; see `atsnet.baselines.detector.DetectorSize`."""

    trunk: int
    learned: int
    macs: int | None


class CellResult(_Model):
    """A finished cell."""

    part: str
    variant: str
    seed: int
    inputs: CellInputs
    learned_from: int
    """Good images."""
    held_out: int
    """Good images that the threshold is from."""
    report: EvaluationReport
    calibration: Calibration
    size: Size
    speed: Speed
    seconds: float
    """Learning alone, without reading images; of ATS-Net over all interruptions."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """Which trunk all cells share; see `atsnet.backbones.load_backbone`."""

    choice: str
    registry: Path
    cache: Path

    def load(self, report: Reporter = silent) -> tuple[ResNet18Trunk, BackboneSource]:
        """Read the trunk, or download it.

        Raises:
            BackboneError: It cannot be had.
        """
        return load_backbone(self.choice, self.registry, self.cache, report)


def result_path(out: Path, cell: Cell) -> Path:
    """Where a finished cell's result is."""
    return out / CELLS / cell.path.with_suffix(".json")


def read_result(out: Path, cell: Cell) -> CellResult | None:
    """The result of a cell that is finished with the same inputs; None where it must (still) be run."""
    try:
        result = CellResult.model_validate_json(result_path(out, cell).read_bytes())
    except (OSError, ValidationError):
        return None
    return result if result.inputs == cell.inputs else None


def write_result(out: Path, cell: Cell, result: CellResult) -> None:
    """Write a finished cell's result in one step."""
    path = result_path(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


class CellRunner:
    """Runs one cell after the other on one device; keeps the trunk, and the images of the last part, in memory."""

    def __init__(
        self,
        backbone: Backbone,
        out: Path,
        device: torch.device,
        *,
        jobs: int = 1,
        baselines: Mapping[str, MakeDetector] = METHODS,
    ) -> None:
        """`jobs` is how many run side by side."""
        self.out, self.device, self.jobs = out, device, jobs
        self.trunk, self.source = backbone.load()
        self._baselines = baselines
        self._kept: tuple[Path, InputGeometry] | None = None
        self._frames: dict[str, UInt8Array] = {}
        self._test_set: TestSet | None = None

    def run(self, cell: Cell, report: Reporter = silent) -> CellResult:
        """Run a cell and write its result.

        Raises:
            Exception: Whatever the method, its data or its calibration fail with.
        """
        if self.source.sha256 != cell.inputs.backbone:
            raise ValueError("the backbone's file was altered since the benchmark began")
        config = cell.config
        test_set = self._load(cell, report)
        train, holdout = split_holdout(cell.dataset.train, config.training.holdout_fraction, cell.seed)
        held_out = np.stack([self._frames[sample.name] for sample in holdout])
        directory = self.out / RUNS / cell.path
        if cell.variant.method == ATS_NET:
            run = self._trained(cell, directory, report)
            network = run.network.to(self.device)
            seconds = run.record.seconds
            score: Score = partial(score_frames, network)
            size = _size_of(run)
        else:
            detector = self._baselines[cell.variant.method](self.trunk, config.input, cell.seed, self.device)
            learned_from = np.stack([self._frames[sample.name] for sample in train])
            began = time.monotonic()
            detector.fit(learned_from, held_out, report)
            seconds = time.monotonic() - began
            score, size = detector.score, detector.size()
        normal = score(held_out, report=report)
        names = [sample.name for sample in holdout]
        calibration = calibrate(normal.scores, normal.maps.max(axis=(1, 2)), config.calibration, names)
        if cell.variant.method == ATS_NET:
            save_calibration(directory, calibration)
        raw = score(test_set.frames.pixels, report=report)
        result = CellResult(
            part=cell.dataset.name,
            variant=cell.variant.name,
            seed=cell.seed,
            inputs=cell.inputs,
            learned_from=len(train),
            held_out=len(holdout),
            report=assess(test_set, raw, Thresholds.of(calibration), report),
            calibration=calibration,
            size=Size.model_validate(asdict(size)),
            speed=Speed(
                ms=round(median_latency(score, held_out), 2),
                device=describe_device(self.device),
                threads=torch.get_num_threads(),
                jobs=self.jobs,
            ),
            seconds=round(seconds, 1),
        )
        write_result(self.out, cell, result)
        return result

    def _load(self, cell: Cell, report: Reporter) -> TestSet:
        """The images of the cell's part, from memory where the last cell had them too."""
        wanted = cell.dataset.root, cell.config.input
        if self._test_set is None or self._kept != wanted:
            self._kept, self._test_set = None, None
            pixels = load_frames(
                cell.dataset.train,
                cell.config.input,
                progress=lambda done, total: report("reading good images", done, total),
            ).pixels
            names = [sample.name for sample in cell.dataset.train]
            self._frames = dict(zip(names, pixels, strict=True))
            self._test_set = load_test_set(cell.dataset, cell.config.input, report)
            self._kept = wanted
        return self._test_set

    def _trained(self, cell: Cell, directory: Path, report: Reporter) -> TrainedRun:
        """The cell's run of ATS-Net: a finished one, the rest of one that was interrupted, or a new one."""
        train = partial(
            train_run, cell.config, cell.dataset, self.trunk, self.source, directory, device=self.device, report=report
        )
        try:
            if (directory / START_NAME).exists():
                return train(resume=True)
            if (directory / MODEL_NAME).exists():
                run = load_run(directory)
                made_from = (run.config, run.record.atsnet_version, run.record.backbone, run.record.data.sha256)
                if made_from == (cell.config, __version__, self.source, cell.inputs.train):
                    return run
        except RunError:
            pass  # interrupted before its first checkpoint, made from other inputs, or damaged
        if directory.exists():
            shutil.rmtree(directory)
        return train()


def _size_of(run: TrainedRun) -> DetectorSize:
    summary = summarise(run.config)
    trunk = sum(parameter.numel() for parameter in run.network.backbone.parameters())
    return DetectorSize(trunk, summary.parameters - trunk, summary.macs)
