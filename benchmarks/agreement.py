"""Does the service score images as the trained network did? Posts every test image and compares the image AUROC.

    atsnet serve --bundle my-grain/1 &
    python -m benchmarks.agreement runs/grains data/grains --url http://127.0.0.1:8000

Reads the AUROC of `atsnet evaluate` from RUN/evaluation/metrics.json; ends with 1 if the replies' differs by over 1e-3.
"""

import argparse
import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from atsnet.data.layout import Sample, find_dataset
from atsnet.evaluation.metrics import image_auroc
from benchmarks.program import run_program
from service.client import InspectionClient

LIMIT = 1e-3


def main() -> None:
    """Print both figures and the largest difference of a score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="directory of an evaluated run")
    parser.add_argument("data", type=Path, help="its data set")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a service with the run's bundle")
    options = parser.parse_args()
    evaluation = options.run / "evaluation"
    trained = json.loads((evaluation / "metrics.json").read_text())["image_auroc"]
    with (evaluation / "scores.csv").open(newline="") as file:
        expected = {row["name"]: float(row["calibrated_score"]) for row in csv.DictReader(file)}
    samples = find_dataset(options.data).test
    with InspectionClient(options.url) as client, ThreadPoolExecutor(4) as pool:

        def post(sample: Sample) -> float:
            score = client.inspect(sample.path.read_bytes()).score
            assert score is not None
            return score

        scores = list(pool.map(post, samples))
    served = image_auroc([sample.defective for sample in samples], scores)
    worst = max(abs(score / expected[sample.name] - 1) for sample, score in zip(samples, scores, strict=True))
    assert served is not None
    print(f"{len(samples)} images posted; image AUROC {served:.6f} from the replies, {trained:.6f} by atsnet evaluate")
    print(f"difference {abs(served - trained):.2e}; largest relative difference of a calibrated score {worst:.2e}")
    raise SystemExit(abs(served - trained) > LIMIT)


if __name__ == "__main__":
    run_program(main)
