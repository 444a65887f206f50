from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_network import CONFIG, read_pixels, sane_network

from atsnet.data.layout import Sample
from model_export.exporter import Exported
from model_export.graph import DeployableGraph
from model_export.onnx_file import OnnxExportError, to_onnx
from model_export.quantization import integer_search, to_int8
from model_export.scorers import OnnxScorer


@pytest.fixture(scope="session")
def float32(exported: Exported) -> bytes:
    return exported.bundle.graph().read_bytes()


@pytest.fixture(scope="session")
def normal(samples: list[Sample]) -> list[np.ndarray]:
    return list(read_pixels([sample for sample in samples if not sample.defective], CONFIG.input))


@pytest.fixture(scope="session")
def int8(float32: bytes, normal: list[np.ndarray]) -> bytes:
    return to_int8(float32, normal)


def as_it_runs(content: bytes, directory: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(directory / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return onnx.load(directory / "optimised.onnx")


def test_the_student_runs_on_integers_and_nothing_else_does(int8: bytes, tmp_path: Path) -> None:
    nodes = as_it_runs(int8, tmp_path).graph.node
    integer = [node.name for node in nodes if node.op_type == "QLinearConv"]
    floating = [node.name for node in nodes if node.op_type in ("Conv", "FusedConv")]
    assert len(integer) > 15
    assert all(name.startswith("student.") and "_norm" not in name for name in integer)
    assert not [name for name in floating if name.startswith("student.") and "_norm" not in name]
    assert {name.partition(".")[0].partition("/")[0] for name in floating} >= {"backbone", "evidence_head", "tail"}
    assert Counter(node.op_type for node in nodes)["MatMulInteger"] >= 1


def test_inputs_and_outputs_are_as_before(float32: bytes, int8: bytes) -> None:
    before, after = onnx.load_from_string(float32), onnx.load_from_string(int8)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert not {node.domain for node in after.graph.node} - {"", "ai.onnx"}
    assert (after.producer_name, list(after.metadata_props)) == ("atsnet", [])


def test_the_same_frames_make_the_same_file(float32: bytes, int8: bytes, normal: list[np.ndarray]) -> None:
    assert to_int8(float32, normal) == int8
    assert to_int8(float32, normal[:1]) != int8


def test_weights_leave_room_for_processors_that_add_in_16_bits(int8: bytes) -> None:
    weights = [t for t in onnx.load_from_string(int8).graph.initializer if t.data_type == TensorProto.INT8]
    heavy = [numpy_helper.to_array(weight) for weight in weights if np.prod(weight.dims) > 100]
    assert len(heavy) > 10
    assert max(int(np.abs(values.astype(np.int64)).max()) for values in heavy) <= 64


def test_answers_stay_close_one_by_one_and_together(float32: bytes, int8: bytes, samples: list[Sample]) -> None:
    pixels = read_pixels(samples, CONFIG.input)
    scorer = OnnxScorer(int8)
    expected, maps = OnnxScorer(float32)(pixels)
    scores, found = scorer(pixels)
    np.testing.assert_allclose(scores, expected, rtol=0.1)
    assert 0 < np.abs(found - maps).max() < 0.5
    alone = np.concatenate([scorer(frame[np.newaxis])[0] for frame in pixels])
    np.testing.assert_allclose(alone, scores, rtol=1e-5)


def test_a_network_without_memory(normal: list[np.ndarray]) -> None:
    network = CONFIG.network.model_copy(update={"memory_size": 0, "student_sees": "features"})
    config = CONFIG.model_copy(update={"network": network})
    content = to_onnx(DeployableGraph(sane_network(config, np.stack(normal)), 1.0), config.input)
    expected, _ = OnnxScorer(content)(np.stack(normal))
    scores, _ = OnnxScorer(to_int8(content, normal))(np.stack(normal))
    np.testing.assert_allclose(scores, expected, rtol=0.1)


def test_ranges_need_frames(float32: bytes) -> None:
    with pytest.raises(ValueError, match="none were given"):
        to_int8(float32, [])


def test_a_graph_without_a_student_is_refused(float32: bytes, normal: list[np.ndarray]) -> None:
    model = onnx.load_from_string(float32)
    for node in model.graph.node:
        node.name = node.name.replace("student", "teacher")
    with pytest.raises(OnnxExportError, match="nothing to quantise"):
        to_int8(model.SerializeToString(), normal)


def search(prototypes: np.ndarray, reach: float) -> onnxruntime.InferenceSession:
    table = numpy_helper.from_array(prototypes, "prototypes")
    nodes, constants = integer_search(table, reach, "positions", "nearest")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("positions", TensorProto.FLOAT, ["P", prototypes.shape[1]])],
        [helper.make_tensor_value_info("nearest", TensorProto.INT64, ["P"])],
        [table, *constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [1, 7, 64, 1031, 2000, 2310])
@pytest.mark.parametrize("spread", [0.01, 30.0])
def test_the_search_finds_the_nearest(count: int, spread: float) -> None:
    """Prototypes of lengths that differ much, and whatever their number divides by."""
    random = np.random.default_rng(count)
    lengths = random.uniform(0.2, 2, (count, 1))
    prototypes = (spread * lengths * random.standard_normal((count, 24))).astype(np.float32)
    positions = (spread * random.standard_normal((300, 24))).astype(np.float32)
    distances = np.linalg.norm(positions[:, np.newaxis].astype(np.float64) - prototypes, axis=2)
    (found,) = search(prototypes, float(np.abs(positions).max())).run(None, {"positions": positions})
    assert found.dtype == np.int64
    chosen = distances[np.arange(len(positions)), found]
    assert (chosen == distances.min(axis=1)).mean() > 0.98
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=0.05)


def test_a_prototype_is_its_own_nearest_and_positions_beyond_the_range_find_theirs() -> None:
    random = np.random.default_rng(3)
    prototypes = random.standard_normal((500, 24)).astype(np.float32)
    session = search(prototypes, float(np.abs(prototypes).max()))
    np.testing.assert_array_equal(session.run(None, {"positions": prototypes})[0], np.arange(500))
    (far,) = session.run(None, {"positions": 1.5 * prototypes})
    distances = np.linalg.norm(1.5 * prototypes[:, np.newaxis] - prototypes, axis=2)
    assert (far == distances.argmin(axis=1)).mean() > 0.95
