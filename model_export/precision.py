"""Half precision baked into the graph: trunk, student and heads in float16, what it would harm in float32.

One file then serves every GPU runtime that takes the types as they stand: ONNX Runtime, TensorRT 10 (strongly typed)
and 11, Triton. In float32 stay the bytes' normalisation, the moving averages, the affine part of the couplings with its
exponential, the norms of the transformers, the memory's distances and search, and the whole tail (squared residuals,
logarithms, quantile maps, pooling). Types change only where one part meets the other: the converters that exist go
back to half precision after every single operator that they were told to keep, in which squared residuals overflow.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from model_export.onnx_file import OnnxExportError

HALF_SCOPES: Final = ("backbone", "couplings", "student", "evidence_head")
"""Modules of the deployable graph that compute in float16; see `model_export.graph`."""
KEPT_SCOPES: Final = re.compile(r"couplings\.\d+|.*_norm")
"""Parts of these that stay float32: what a coupling does with what its subnet says, and the transformers' norms."""

_HALF_MAX: Final = float(np.finfo(np.float16).max)
_TYPED_BY_ATTRIBUTE: Final = frozenset({"Cast"})
_FLOAT_SLOTS: Final[Mapping[str, range]] = {"Resize": range(1, 4)}
"""Inputs that the standard wants in float32 whatever the operator computes in."""
_EXACT: Final = frozenset(
    {"Concat", "Gather", "MaxPool", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators whose results are values that they were given, or zero: there is nothing to round."""


def to_float16(content: bytes, kept: re.Pattern[str] = KEPT_SCOPES) -> bytes:
    """Turn an ONNX file of `to_onnx` into one that computes mostly in half precision.

    Inputs and outputs keep their types; bytes are cast at once, for TensorRT takes them for nothing else, and every
    value of theirs is exact in float16. Converting the same file always gives the same bytes.

    Args:
        content: The file.
        kept: Matches the scopes that stay float32.

    Raises:
        OnnxExportError: A weight is beyond half precision, or the graph has no part that could be halved.
    """
    model = onnx.load_from_string(content)
    _cast_bytes(model.graph)
    model = _inferred(model)
    graph = model.graph
    rewriting = _Rewriting(graph)
    for node in list(graph.node):
        if _computes_in_half(node, kept):
            rewriting.halve(node)
        else:
            rewriting.keep(node)
    if not rewriting.halved:
        raise OnnxExportError(f"no node of the graph belongs to {', '.join(HALF_SCOPES)}; there is nothing to halve")
    rewriting.finish()
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def with_rounding(content: bytes) -> bytes:
    """A float32 graph that rounds where the half-precision one does, to judge it by on a machine without such kernels.

    ONNX Runtime's CPU kernels compute half-precision operators in float32 and round only where types meet, so that a
    file of `to_float16` looks better on them than it is. Here every result of a half-precision operator is rounded to
    float16, as on a GPU, whose tensor cores accumulate in float32 and store float16.
    """
    model = _inferred(onnx.load_from_string(content))
    graph = model.graph
    half = {name for name, kind in _types(graph).items() if kind == TensorProto.FLOAT16}
    for tensor in graph.initializer:
        if tensor.name in half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for slot, name in enumerate(node.output):
            if name not in half or node.op_type in _EXACT:
                continue
            rounded = f"{name}/rounded"
            if node.op_type == "Cast":
                node.output[slot] = rounded
            else:
                node.output[slot] = f"{name}/exact"
                nodes.append(_cast(node.output[slot], rounded, TensorProto.FLOAT16))
            nodes.append(_cast(rounded, name, TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Rewriting:
    """A graph on its way to half precision, node by node in the order of computation."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.halved = 0
        self._graph = graph
        self._types = _types(graph)
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._now_half: set[str] = set()
        self._made: dict[str, str] = {}
        """Values in the other precision that there are already, by the name of the original."""
        self._nodes: list[NodeProto] = []

    def halve(self, node: NodeProto) -> None:
        for slot, name in enumerate(node.input):
            if self._types.get(name) == TensorProto.FLOAT and slot not in _FLOAT_SLOTS.get(node.op_type, ()):
                node.input[slot] = name if name in self._now_half else self._as_half(name)
        self._nodes.append(node)
        self._now_half.update(name for name in node.output if self._types.get(name) == TensorProto.FLOAT)
        self.halved += 1

    def keep(self, node: NodeProto) -> None:
        for slot, name in enumerate(node.input):
            if name in self._now_half:
                node.input[slot] = self._converted(name, TensorProto.FLOAT)
        self._nodes.append(node)

    def finish(self) -> None:
        for output in self._graph.output:
            if output.name in self._now_half:
                raise OnnxExportError(f"the output {output.name!r} would be half precision; it has to stay float32")
        used = {name for node in self._nodes for name in node.input}
        weights = [tensor for name, tensor in self._initializers.items() if name in used]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(weights)

    def _as_half(self, name: str) -> str:
        tensor = self._initializers.get(name)
        if tensor is None:
            return self._converted(name, TensorProto.FLOAT16)
        half = f"{name}.float16"
        if half not in self._initializers:
            values = numpy_helper.to_array(tensor)
            largest = float(np.abs(values).max(initial=0))
            if not largest <= _HALF_MAX:
                raise OnnxExportError(f"the weight {name!r} reaches {largest:.4g}, beyond half precision")
            self._initializers[half] = numpy_helper.from_array(values.astype(np.float16), half)
        return half

    def _converted(self, name: str, kind: int) -> str:
        if name not in self._made:
            converted = f"{name}/{TensorProto.DataType.Name(kind).lower()}"
            self._nodes.append(_cast(name, converted, kind))
            self._made[name] = converted
        return self._made[name]


def _computes_in_half(node: NodeProto, kept: re.Pattern[str]) -> bool:
    scope = node.name.rpartition("/")[0]
    return (
        scope.partition(".")[0] in HALF_SCOPES and not kept.fullmatch(scope) and node.op_type not in _TYPED_BY_ATTRIBUTE
    )


def _cast_bytes(graph: onnx.GraphProto) -> None:
    for info in graph.input:
        if info.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        converted = f"{info.name}/float16"
        for node in graph.node:
            for slot, name in enumerate(node.input):
                if name == info.name:
                    node.input[slot] = converted
        graph.node.insert(0, _cast(info.name, converted, TensorProto.FLOAT16))
    del graph.value_info[:]  # the types of what was made of the bytes


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    infos: Sequence[onnx.ValueInfoProto] = [*graph.input, *graph.value_info, *graph.output]
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _cast(source: str, target: str, kind: int) -> NodeProto:
    name = f"{source}/Cast_{TensorProto.DataType.Name(kind).lower()}"
    return helper.make_node("Cast", [source], [target], name=name, to=kind)
