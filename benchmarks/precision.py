"""How far each precision is from float32, and what a frame costs in it.

    python -m benchmarks.precision runs/tile data/magnetic_tile
    python -m benchmarks.precision runs/tile data/magnetic_tile --ablate

Prints a Markdown table over the test images and the held-out ones; `--ablate` adds graphs with more or less in few
bits. Differences of scores are relative to the score, or to a tenth of the threshold where that is more; those of maps
are in units of the threshold. CPU time is that of one thread, the median of frames that all graphs had in turn.
"""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from onnxruntime.quantization import CalibrationMethod

from atsnet.calibration import load_calibration
from atsnet.data.layout import Dataset, Sample, find_dataset
from atsnet.evaluation.metrics import image_auroc
from atsnet.imaging import UInt8Array
from atsnet.training.run_directory import TrainedRun, load_run
from benchmarks.program import run_program
from model_export.bundle import Calibration
from model_export.exporter import RANGE_FRAMES
from model_export.graph import DeployableGraph
from model_export.onnx_file import to_onnx
from model_export.parity import evenly, read_frames
from model_export.precision import KEPT_SCOPES, to_float16, with_rounding
from model_export.quantization import QUANTIZED_SCOPES, to_int8
from model_export.scorers import OnnxScorer
from model_export.speed import cpu_name

TIMED_FRAMES: Final = 60
KEPT: Final = {
    "float16, stem float32": r"backbone\.conv1",
    "float16, first block float32": r"backbone(\.conv1|\.layer1\.0.*)?",
    "float16, first layer float32": r"backbone(\.conv1|\.layer1.*)?",
}
"""What more stays float32, beside what always does."""
ADDED: Final = {
    "couplings": r"couplings.*",
    "evidence head": r"evidence_head\..*",
    "layer3": r"backbone\.layer3.*",
    "layer2": r"backbone\.layer2.*",
    "layer1": r"backbone\.layer1.*",
    "stem": r"backbone\.conv1",
}
"""What more is quantised, beside what always is."""
TRUNK: Final = re.compile(rf"{QUANTIZED_SCOPES.pattern}|backbone\.layer.*")
METHODS: Final = {
    "least and largest value": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


@dataclass
class Contestant:
    """A graph, and how it answers."""

    content: bytes
    scorer: OnnxScorer
    scores: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    """Largest difference of each frame's map."""
    means: list[float] = field(default_factory=list)
    """Mean difference of each frame's map."""
    spent: list[float] = field(default_factory=list)
    """CPU time of frames, in ms."""


def main() -> None:
    """Score every frame with every graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a calibrated run")
    parser.add_argument("data", type=Path, help="its data set")
    parser.add_argument("--frames", type=int, default=100_000, help="most frames, evenly chosen")
    parser.add_argument("--ablate", action="store_true", help="graphs with more or less in few bits too")
    arguments = parser.parse_args()
    run, dataset = load_run(arguments.run), find_dataset(arguments.data)
    learned = load_calibration(arguments.run)
    if learned is None:
        parser.error(f"{arguments.run} has no thresholds yet")
    calibration = Calibration.model_validate(learned.deployed())
    held_out = set(run.record.data.holdout_images)
    samples = [*dataset.test, *(sample for sample in dataset.train if sample.name in held_out)]
    samples = list(evenly(samples, arguments.frames))
    contestants = dict(graphs(run, dataset, calibration, ablate=arguments.ablate))
    for _, pixels in read_frames(samples, run.config.input):
        answer(contestants, pixels)
    measure(contestants, [pixels for _, pixels in read_frames(evenly(samples, TIMED_FRAMES), run.config.input)])
    report(contestants, samples, calibration.score_threshold)


def graphs(
    run: TrainedRun, dataset: Dataset, calibration: Calibration, *, ablate: bool
) -> Iterator[tuple[str, Contestant]]:
    """The graphs that are compared, float32 first."""
    float32 = to_onnx(DeployableGraph(run.network, calibration.map_threshold), run.config.input)
    half = to_float16(float32)
    trained_on = set(run.record.data.train_images)
    normal = evenly([sample for sample in dataset.train if sample.name in trained_on], RANGE_FRAMES)
    frames = [pixels for _, pixels in read_frames(normal, run.config.input)]

    def int8(scopes: re.Pattern[str], method: CalibrationMethod = CalibrationMethod.MinMax) -> Contestant:
        with contextlib.redirect_stdout(sys.stderr):  # some methods tell how they get on
            content = to_int8(float32, frames, scopes, method)
        return Contestant(content, OnnxScorer(content))

    yield "float32", Contestant(float32, OnnxScorer(float32))
    yield "float16, rounded as on a GPU", Contestant(half, OnnxScorer(with_rounding(half)))
    yield "int8", int8(QUANTIZED_SCOPES)
    if not ablate:
        return
    yield "float16 on this CPU", Contestant(half, OnnxScorer(half))
    for name, scopes in KEPT.items():
        kept = to_float16(float32, re.compile(f"{KEPT_SCOPES.pattern}|{scopes}"))
        yield name, Contestant(kept, OnnxScorer(with_rounding(kept)))
    for name, scopes in ADDED.items():
        yield f"int8, {name} too", int8(re.compile(f"{QUANTIZED_SCOPES.pattern}|{scopes}"))
    for name, method in METHODS.items():
        yield f"int8, all three layers too, ranges by {name}", int8(TRUNK, method)


def answer(contestants: dict[str, Contestant], pixels: UInt8Array) -> None:
    """Let every graph score a frame."""
    reference = None
    for contestant in contestants.values():
        score, anomaly_map = contestant.scorer(pixels[np.newaxis])
        reference = anomaly_map if reference is None else reference
        apart = np.abs(anomaly_map - reference)
        contestant.scores.append(float(score[0]))
        contestant.largest.append(float(apart.max()))
        contestant.means.append(float(apart.mean()))


def measure(contestants: dict[str, Contestant], frames: Sequence[UInt8Array]) -> None:
    """Take the CPU time of every graph as it is in its file, all of them in turn."""
    scorers = {name: OnnxScorer(contestant.content) for name, contestant in contestants.items()}
    for scorer in scorers.values():
        scorer(frames[0][np.newaxis])
    for frame in frames:
        for name, scorer in scorers.items():
            start = time.thread_time()
            scorer(frame[np.newaxis])
            contestants[name].spent.append(1000 * (time.thread_time() - start))


def report(contestants: dict[str, Contestant], samples: Sequence[Sample], threshold: float) -> None:
    """Print the table."""
    reference = np.array(contestants["float32"].scores)
    defective = [sample.defective for sample in samples]
    print(f"{len(reference)} frames, {cpu_name()}\n")
    print("| graph | flipped | image AUROC | score, mean | largest | map, mean | largest | CPU ms | MB |")
    print("| --- " * 9 + "|")
    for name, contestant in contestants.items():
        scores = np.array(contestant.scores)
        off = np.abs(scores - reference) / np.maximum(np.abs(reference), 0.1 * threshold)
        flipped = int(((scores > threshold) != (reference > threshold)).sum())
        figures = (off.mean(), off.max(), np.mean(contestant.means), max(contestant.largest))
        differences = " | ".join(f"{figure:.2g}" for figure in figures)
        print(
            f"| {name} | {flipped} | {image_auroc(defective, scores):.5f} | {differences} "
            f"| {np.median(contestant.spent):.1f} | {len(contestant.content) / 1e6:.1f} |"
        )


if __name__ == "__main__":
    run_program(main)
