"""A bundle whose network takes about 0.1 ms: with it a benchmark measures what lies around the network."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from atsnet.imaging import InputGeometry, UInt8Array, to_frame
from model_export.bundle import Calibration, GoldenSample, Manifest, describe_file, write_manifest

NAME: Final = "tiny/1"

SIDE: Final = 64
_MAP_SIDE: Final = 16
_WIDTHS: Final = (1, 16, 32, 40)
"""Channels before, between and behind its three convolutions."""
_GEOMETRY: Final = InputGeometry(height=SIDE, width=SIDE, color="mono")


def write_tiny_bundle(weights: Path, version: str = "1", gain: float = 1.0) -> Path:
    """Write `tiny` with four good and two defective samples of 64x64 pixels; returns its directory.

    Args:
        weights: Where bundles are.
        version: Of the bundle.
        gain: Factor of all scores, so that versions can be told apart by them.
    """
    name = NAME.partition("/")[0]
    path = weights / name / version
    (path / "samples").mkdir(parents=True)
    images = {f"good_{number}": _image(number, defective=False) for number in range(4)}
    images |= {f"spot_{number}": _image(number, defective=True) for number in range(2)}
    peaks = {name: float(_run(_graph(1.0), image)[0]) for name, image in images.items()}
    good, defective = max(peaks[f"good_{n}"] for n in range(4)), min(peaks[f"spot_{n}"] for n in range(2))
    graph = _graph(2 * gain / (good + defective))
    (path / "model.onnx").write_bytes(graph)
    samples = [_write_sample(path, name, image, graph) for name, image in images.items()]
    names = ["model.onnx", *(str(file.relative_to(path)) for file in sorted((path / "samples").iterdir()))]
    manifest = Manifest(
        name=name,
        version=version,
        product="tiny",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        graphs={"float32": "model.onnx"},
        input=_GEOMETRY,
        map_height=_MAP_SIDE,
        map_width=_MAP_SIDE,
        calibration=Calibration(
            score_threshold=1.0,
            map_threshold=1.0,
            target_false_reject_rate=0.01,
            normal_images=4,
            method="halfway between its own good and defective samples",
        ),
        golden_samples=tuple(samples),
        score_tolerance=1e-3,
        network={},
        training={},
        data={},
        metrics={},
        backbone={"source": "none", "licence": "none"},
        files={name: describe_file(path / name) for name in names},
    )
    write_manifest(path, manifest)
    return path


def _image(seed: int, *, defective: bool) -> UInt8Array:
    image = np.random.default_rng(seed).normal(64, 6, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    if defective:
        image[16:32, 24:40] = 220
    return image


def _write_sample(path: Path, name: str, image: UInt8Array, graph: bytes) -> GoldenSample:
    written, png = cv2.imencode(".png", image)
    assert written
    (path / "samples" / f"{name}.png").write_bytes(png.tobytes())
    score, anomaly_map = _run(graph, image)
    np.save(path / "samples" / f"{name}.npy", anomaly_map.astype(np.float16))
    return GoldenSample(
        image=f"samples/{name}.png",
        anomaly_map=f"samples/{name}.npy",
        score=float(score),
        verdict="fail" if score > 1 else "pass",
        label=name.partition("_")[0],
    )


def _run(graph: bytes, image: UInt8Array) -> tuple[np.float32, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    frame = to_frame(image, _GEOMETRY).pixels
    scores, maps = session.run(["score", "anomaly_map"], {"images": frame[np.newaxis]})
    return scores[0], maps[0]


def _graph(scale: float) -> bytes:
    """Three convolutions with weights above 0, so that bright is anomalous; the map is the mean of their channels."""
    random = np.random.default_rng(0)
    kernels = [
        numpy_helper.from_array(
            random.uniform(0, 2 / (9 * before), (behind, before, 3, 3)).astype(np.float32), f"kernel{number}"
        )
        for number, (before, behind) in enumerate(pairwise(_WIDTHS))
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        helper.make_tensor("spatial", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale / 255]),
    ]
    nodes = [
        helper.make_node("Slice", ["images", "zero", "one", "last"], ["first"]),
        helper.make_node("Cast", ["first"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["plane0"], perm=[0, 3, 1, 2]),
    ]
    constants.append(helper.make_tensor("last", TensorProto.INT64, [1], [3]))
    for number, stride in enumerate((2, 2, 1)):
        nodes += [
            helper.make_node(
                "Conv",
                [f"plane{number}", f"kernel{number}"],
                [f"convolved{number}"],
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[stride, stride],
            ),
            helper.make_node("Relu", [f"convolved{number}"], [f"plane{number + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", ["plane3", "channel"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "spatial"], ["score"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 2])]
    outputs = [
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", _MAP_SIDE, _MAP_SIDE]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, [*constants, *kernels]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
