"""A bundle's graph in ONNX Runtime on the CPU, and frames to run it on."""

from pathlib import Path

import numpy as np
import onnxruntime

from atsnet.imaging import UInt8Array, read_image, to_frame
from model_export.bundle import Bundle

INPUT = "images"
OUTPUTS = ("score", "anomaly_map")


def open_session(graph: Path | bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session as the service sets one up, but with as many threads as one asks for."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def golden_frames(bundle: Bundle) -> UInt8Array:
    """Frames of the golden samples, `uint8 [N, H, W, C]`."""
    geometry = bundle.manifest.input
    images = [read_image(bundle.file(sample.image)) for sample in bundle.manifest.golden_samples]
    return np.stack([to_frame(image, geometry).pixels for image in images])
