import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from atsnet.data.layout import Sample
from model_export.bundle import Bundle, GoldenMismatchError, load_bundle
from model_export.engine_gate import parity_gate
from model_export.exporter import Exported
from model_export.parity import ParityError
from model_export.scorers import OnnxScorer
from model_export.tensorrt import LaneScorer


class GraphLane:
    """What stands for an engine is the graph itself, times a factor."""

    def __init__(self, bundle: Bundle) -> None:
        self._graph = OnnxScorer(bundle.graph("float16").read_bytes())
        self.factor = np.float32(1)

    def run(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, maps = self._graph(frames)
        return scores * self.factor, maps

    def close(self) -> None:
        pass


@pytest.fixture
def halved(exported: Exported, tmp_path: Path) -> Bundle:
    """A bundle whose one graph counts as half precision too, with the same answers and float32's tolerance."""
    path = Path(shutil.copytree(exported.bundle.path, tmp_path / "halved"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["graphs"]["float16"] = manifest["graphs"]["float32"]
    for sample in manifest["golden_samples"]:
        sample["answers"] = {"float16": {name: sample[name] for name in ("anomaly_map", "score", "verdict")}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return load_bundle(path)


def test_an_engine_passes_the_gate_of_the_graphs_and_the_golden_samples(halved: Bundle, samples: list[Sample]) -> None:
    lane = GraphLane(halved)
    gate, scorer = parity_gate(samples), LaneScorer(lane, (1, 4), "an engine")
    gate(halved, scorer)
    lane.factor = np.float32(1.2)
    with pytest.raises(ParityError, match=r"an engine differs from ONNX Runtime[\s\S]* it is not used"):
        gate(halved, scorer)
    lane.factor = np.float32(1.01)  # within the graphs' limits, and beyond this bundle's tolerance
    with pytest.raises(GoldenMismatchError, match=r"good_0\.png"):
        gate(halved, scorer)
