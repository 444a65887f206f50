"""How far half precision is from float32: as the file runs on this CPU, as a GPU rounds, and with more kept in float32.

    python benchmarks/precision.py runs/tile data/magnetic_tile

Prints a Markdown table over the test images and the held-out ones. Differences of scores are relative to the score, or
to a tenth of the threshold where that is more; those of maps are in units of the threshold.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atsnet.calibration import load_calibration
from atsnet.data.layout import find_dataset
from atsnet.evaluation.metrics import image_auroc
from atsnet.training.run_directory import load_run
from model_export.bundle import Calibration
from model_export.graph import DeployableGraph
from model_export.onnx_file import to_onnx
from model_export.parity import read_frames
from model_export.precision import KEPT_SCOPES, to_float16, with_rounding
from model_export.scorers import OnnxScorer, Scorer

KEPT = {
    "rounded, stem float32": r"backbone\.conv1",
    "rounded, first block float32": r"backbone(\.conv1|\.layer1\.0.*)?",
    "rounded, first layer float32": r"backbone(\.conv1|\.layer1.*)?",
}


def main() -> None:
    """Score every frame with every graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a calibrated run")
    parser.add_argument("data", type=Path, help="its data set")
    parser.add_argument("--frames", type=int, default=100_000, help="most frames, evenly chosen")
    arguments = parser.parse_args()
    run, dataset = load_run(arguments.run), find_dataset(arguments.data)
    learned = load_calibration(arguments.run)
    if learned is None:
        parser.error(f"{arguments.run} has no thresholds yet")
    calibration = Calibration.model_validate(learned.deployed())
    held_out = set(run.record.data.holdout_images)
    samples = [*dataset.test, *(sample for sample in dataset.train if sample.name in held_out)]
    samples = samples[:: max(1, -(-len(samples) // arguments.frames))]

    graph = to_onnx(DeployableGraph(run.network, calibration.map_threshold), run.config.input)
    half = to_float16(graph)
    scorers: dict[str, Scorer] = {
        "float32": OnnxScorer(graph),
        "float16 on this CPU": OnnxScorer(half),
        "float16, rounded": OnnxScorer(with_rounding(half)),
    }
    for name, scopes in KEPT.items():
        kept = to_float16(graph, re.compile(f"{KEPT_SCOPES.pattern}|{scopes}"))
        scorers[name] = OnnxScorer(with_rounding(kept))
    scores: dict[str, list[float]] = {name: [] for name in scorers}
    maps: dict[str, list[float]] = {name: [] for name in scorers}
    for _, pixels in read_frames(samples, run.config.input):
        answers = {name: scorer(pixels[np.newaxis]) for name, scorer in scorers.items()}
        for name, (score, anomaly_map) in answers.items():
            scores[name].append(float(score[0]))
            maps[name].append(float(np.abs(anomaly_map - answers["float32"][1]).max()))
    report(scores, maps, calibration.score_threshold, [sample.defective for sample in samples])


def report(
    scores: dict[str, list[float]], maps: dict[str, list[float]], threshold: float, defective: Sequence[bool]
) -> None:
    """Print the table."""
    reference = np.array(scores["float32"])
    print(f"{len(reference)} frames\n")
    print("| graph | score, largest | score, mean | above 3 % | map, largest | flipped | image AUROC |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, values in scores.items():
        found = np.array(values)
        off = np.abs(found - reference) / np.maximum(np.abs(reference), 0.1 * threshold)
        flipped = int(((found > threshold) != (reference > threshold)).sum())
        auroc = image_auroc(defective, found)
        print(
            f"| {name} | {off.max():.2g} | {off.mean():.2g} | {(off > 0.03).sum()} | {max(maps[name]):.2g} "
            f"| {flipped} | {auroc:.5f} |"
        )


if __name__ == "__main__":
    main()
