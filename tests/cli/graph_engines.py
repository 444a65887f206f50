"""TensorRT whose engines are the graphs themselves, run by ONNX Runtime on the CPU."""

from collections.abc import Sequence

import numpy as np

from model_export.bundle import Bundle
from model_export.scorers import OnnxScorer
from model_export.tensorrt import Gpu


class GraphLane:
    def __init__(self, graph: bytes, factor: float) -> None:
        self._graph, self._factor = OnnxScorer(graph), np.float32(factor)

    def run(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, maps = self._graph(frames)
        return scores * self._factor, maps

    def close(self) -> None:
        pass


class GraphEngines:
    """Scores come out times `factor`."""

    gpu = Gpu("a GPU", "9.0", "10.16.0")

    def __init__(self, factor: float = 1) -> None:
        self.factor = factor
        self.built = 0

    def build(self, graph: bytes, shape: tuple[int, int, int], buckets: Sequence[int], _: bytes) -> tuple[bytes, bytes]:
        assert len(shape) == 3
        assert 1 in buckets
        self.built += 1
        return graph, b"timings"

    def open(self, engine: bytes, bundle: Bundle, buckets: Sequence[int], lanes: int) -> list[GraphLane]:  # noqa: ARG002
        return [GraphLane(engine, self.factor) for _ in range(lanes)]
