"""From the deployable graph to the bytes of one ONNX file: the same bytes for the same weights, wherever it is made."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import onnx
import onnx_ir
import onnxscript
import torch
from torch import nn

from atsnet.imaging import InputGeometry
from model_export.bundle import INPUT_NAME, OUTPUT_NAMES

BATCH_DIMENSION: Final = "batch"

OPSET: Final = 20
"""The first with `Gelu` as one operator; ONNX Runtime >= 1.17 and TensorRT >= 10 take it."""

_op: Any = onnxscript.opset20
_SCOPES_KEY: Final = "pkg.torch.onnx.name_scopes"


class OnnxExportError(Exception):
    """The graph could not be brought into the form that runtimes are promised; the message says what is in the way."""


def to_onnx(graph: nn.Module, geometry: InputGeometry) -> bytes:
    """Export a graph of frames to ONNX, batch dimension dynamic, weights inside.

    Nodes are named by the module that they come from (`student.context_8.qkv/Conv_3`), so that profiles can be read and
    precisions chosen by name. Nothing in the file says where or when it was made.

    Args:
        graph: From `uint8 [N, H, W, C]` to scores `float32 [N]` and maps `float32 [N, h, w]`.
        geometry: Height, width and channels.

    Raises:
        OnnxExportError: The result holds operators or types that it must not.
    """
    example = torch.zeros((2, *geometry.frame_shape), dtype=torch.uint8)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes=({0: torch.export.Dim(BATCH_DIMENSION)},),
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            verbose=False,
        )
    assert program is not None
    model = program.model
    _name_nodes(model.graph)
    _strip(model)
    proto = onnx_ir.to_proto(model)
    _check(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def operator_counts(content: bytes) -> Mapping[str, int]:
    """How often each operator occurs in an ONNX file, the most frequent first."""
    nodes = onnx.load_from_string(content).graph.node
    return dict(sorted(Counter(node.op_type for node in nodes).items(), key=lambda item: (-item[1], item[0])))


def _attention(
    query: onnx_ir.Value,
    key: onnx_ir.Value,
    value: onnx_ir.Value,
    attn_mask: None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> onnx_ir.Value:
    """Attention over `[N, heads, positions, dim]`; the stock translation computes its shapes at run time."""
    if attn_mask is not None or dropout_p or is_causal or scale is not None or enable_gqa:
        raise OnnxExportError("only attention without mask, dropout, causality, scale and grouping is translated")
    assert query.shape is not None
    dim = query.shape[-1]
    assert isinstance(dim, int)
    scaled = _op.Mul(query, _op.Constant(value_float=dim**-0.5))
    weights = _op.Softmax(_op.MatMul(scaled, _op.Transpose(key, perm=[0, 1, 3, 2])), axis=-1)
    attended: onnx_ir.Value = _op.MatMul(weights, value)
    return attended


def _name_nodes(graph: onnx_ir.Graph) -> None:
    counts: Counter[str] = Counter()
    for node in graph:
        scopes = node.metadata_props.get(_SCOPES_KEY)
        if scopes:
            scope = str(scopes).strip("[]").split(", ")[-2:][0].strip("'\"")
        else:  # made by the exporter's own rewriting: it belongs to what it works on
            producer = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            scope = (producer.name or "").rpartition("/")[0] if producer is not None else ""
        stem = f"{scope}/{node.op_type}" if scope else node.op_type
        node.name = f"{stem}_{counts[stem]}"
        counts[stem] += 1


def _strip(model: onnx_ir.Model) -> None:
    """Remove stack traces, source paths and tool versions."""
    model.producer_name, model.producer_version, model.doc_string = "atsnet", None, None
    model.metadata_props.clear()
    graph = model.graph
    graph.name, graph.doc_string = "atsnet", None
    graph.metadata_props.clear()
    for node in graph:
        node.doc_string = None
        node.metadata_props.clear()
        for output in node.outputs:
            _strip_value(output)
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        _strip_value(value)


def _strip_value(value: onnx_ir.Value) -> None:
    value.doc_string = None
    value.metadata_props.clear()
    if value.const_value is not None:
        value.const_value.metadata_props.clear()
        value.const_value.doc_string = None


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    foreign = sorted({node.op_type for node in model.graph.node if node.domain} | {f.name for f in model.functions})
    if foreign:
        raise OnnxExportError(f"the graph uses operators that are not ONNX's own: {', '.join(foreign)}")
    at_run_time = sorted(node.name for node in model.graph.node if node.op_type in ("Shape", "NonZero", "Loop", "If"))
    if at_run_time:
        raise OnnxExportError(f"the graph computes shapes at run time, in {', '.join(at_run_time)}")
    double = onnx.TensorProto.DOUBLE
    doubles = [tensor.name for tensor in model.graph.initializer if tensor.data_type == double]
    doubles += [info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == double]
    if doubles:
        raise OnnxExportError(f"the graph computes in float64, in {', '.join(sorted(doubles))}")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says about itself: a deprecation inside torch, and that torchvision is missing."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
