from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_network import read_pixels

from atsnet.data.layout import Sample
from model_export.exporter import Exported
from model_export.onnx_file import OnnxExportError
from model_export.precision import to_float16, with_rounding
from model_export.scorers import OnnxScorer


@pytest.fixture(scope="session")
def float32(exported: Exported) -> bytes:
    return exported.bundle.graph().read_bytes()


@pytest.fixture(scope="session")
def half(float32: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(to_float16(float32))


def types(model: onnx.ModelProto) -> Mapping[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    infos = [*inferred.input, *inferred.value_info, *inferred.output]
    return {info.name: info.type.tensor_type.elem_type for info in infos} | {
        tensor.name: tensor.data_type for tensor in inferred.initializer
    }


def precisions(model: onnx.ModelProto, operator: str, scope: str) -> set[int]:
    kinds = types(model)
    return {
        kinds[node.output[0]] for node in model.graph.node if node.op_type == operator and node.name.startswith(scope)
    }


@pytest.mark.parametrize(
    ("operator", "scope"),
    [
        ("Conv", "backbone"),
        ("Relu", "backbone"),
        ("Conv", "couplings.0.subnet"),
        ("MatMul", "student.context_8"),
        ("Softmax", "student.context_8"),
        ("Conv", "student.head_4"),
        ("Resize", "student"),
        ("Conv", "evidence_head"),
    ],
)
def test_what_is_heavy_is_half(half: onnx.ModelProto, operator: str, scope: str) -> None:
    assert precisions(half, operator, scope) == {TensorProto.FLOAT16}


@pytest.mark.parametrize(
    ("operator", "scope"),
    [
        ("Exp", "couplings"),
        ("Log", "tail"),
        ("Mul", "tail"),
        ("Conv", "tail"),
        ("ReduceMean", "tail"),
        ("Div", "student.context_8.mlp_norm"),
        ("Sqrt", "Sqrt"),
        ("MatMul", "MatMul"),
        ("Mul", "pixels"),
        ("Mul", "norms"),
    ],
)
def test_what_is_delicate_stays_float32(half: onnx.ModelProto, operator: str, scope: str) -> None:
    assert precisions(half, operator, scope) == {TensorProto.FLOAT}


def test_types_change_only_where_the_parts_meet(half: onnx.ModelProto) -> None:
    producers = {name: node for node in half.graph.node for name in node.output}
    for node in half.graph.node:
        if node.op_type == "Cast":
            source = producers.get(node.input[0])
            assert source is None or source.op_type != "Cast"


def test_bytes_are_cast_before_anything_else(half: onnx.ModelProto) -> None:
    takers = [node.op_type for node in half.graph.node if "images" in node.input]
    assert takers == ["Cast"]
    assert TensorProto.UINT8 not in {kind for name, kind in types(half).items() if name != "images"}


def test_inputs_and_outputs_are_as_before(float32: bytes, half: onnx.ModelProto) -> None:
    before = onnx.load_from_string(float32).graph
    assert list(half.graph.input) == list(before.input)
    assert list(half.graph.output) == list(before.output)


def test_the_file_is_much_smaller_and_always_the_same(float32: bytes) -> None:
    once = to_float16(float32)
    assert len(once) < 0.7 * len(float32)
    assert once == to_float16(float32)


def test_answers_stay_close(float32: bytes, half: onnx.ModelProto, samples: list[Sample], exported: Exported) -> None:
    pixels = read_pixels(samples, exported.bundle.manifest.input)
    content = half.SerializeToString()
    expected, maps = OnnxScorer(float32)(pixels)
    for candidate in (content, with_rounding(content)):
        scores, candidate_maps = OnnxScorer(candidate)(pixels)
        np.testing.assert_allclose(scores, expected, rtol=0.05)
        assert 0 < np.abs(candidate_maps - maps).max() < 0.2


def tiny(weight: float, addend: float = 0.0) -> bytes:
    """`x * weight + addend`, of which the product is the backbone's."""
    value = lambda name, kind: helper.make_tensor_value_info(name, kind, ["N", 1, 1, 2])  # noqa: E731
    nodes = [
        helper.make_node("Mul", ["x", "weight"], ["product"], name="backbone/Mul_0"),
        helper.make_node("Add", ["product", "addend"], ["sum"], name="backbone/Add_0"),
        helper.make_node("Sub", ["sum", "addend"], ["difference"], name="backbone/Sub_0"),
        helper.make_node("Mul", ["difference", "one"], ["y"], name="tail/Mul_0"),
    ]
    constants = {"weight": weight, "addend": addend, "one": 1.0}
    initializers = [numpy_helper.from_array(np.float32(number), name) for name, number in constants.items()]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT)], [value("y", TensorProto.FLOAT)], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def run(content: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_rounding_is_that_of_half_precision_arithmetic() -> None:
    """1000 + x keeps halves of x alone in float16, which ONNX Runtime's CPU kernels do not show by themselves."""
    x = np.array([[[[0.3, 0.7]]]], np.float32)
    half = to_float16(tiny(1.0, 1000.0))
    np.testing.assert_array_equal(run(with_rounding(half), x), [[[[0.5, 0.5]]]])
    numpys = (x.astype(np.float16) + np.float16(1000)) - np.float16(1000)
    np.testing.assert_array_equal(run(with_rounding(half), x), numpys.astype(np.float32))


def test_a_weight_beyond_half_precision_is_named() -> None:
    with pytest.raises(OnnxExportError, match=r"'weight' reaches 7e\+04"):
        to_float16(tiny(70_000.0))


def test_a_graph_without_a_heavy_part_is_refused() -> None:
    model = onnx.load_from_string(tiny(1.0))
    for node in model.graph.node:
        node.name = node.name.replace("backbone", "tail")
    with pytest.raises(OnnxExportError, match="nothing to halve"):
        to_float16(model.SerializeToString())


def test_an_output_must_not_become_half() -> None:
    model = onnx.load_from_string(tiny(1.0))
    model.graph.node[-1].name = "backbone/Mul_1"
    with pytest.raises(OnnxExportError, match="output 'y' would be half"):
        to_float16(model.SerializeToString())
