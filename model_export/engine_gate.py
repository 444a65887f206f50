"""The gate of a TensorRT engine where real images are at hand, stricter than the golden samples alone."""

from collections.abc import Sequence

from atsnet.data.layout import Sample
from model_export.bundle import Bundle
from model_export.parity import LIMITS, compare, read_frames, require_parity
from model_export.scorers import OnnxScorer
from model_export.tensorrt import PRECISION, Gate, LaneScorer, check_golden_samples


def parity_gate(samples: Sequence[Sample]) -> Gate:
    """A gate as every graph's, against the bundle's float32 graph in ONNX Runtime, and the golden samples on top."""

    def gate(bundle: Bundle, scorer: LaneScorer) -> None:
        reference = OnnxScorer(bundle.graph().read_bytes())
        frames, labels = read_frames(samples, bundle.manifest.input), [sample.defective for sample in samples]
        limits, calibration = LIMITS[PRECISION], bundle.manifest.calibration
        require_parity(compare(reference, scorer, frames, calibration, limits, defective=labels))
        check_golden_samples(bundle, scorer)

    return gate
