"""Static INT8 for CPUs: the student's convolutions in 8 bits, and a search of the memory that 8 bits narrow down.

What is quantised is what verdicts do not hang on. The student only predicts, and its residuals are heard by their
logarithm; the memory's search only has to find the right prototype, and float32 has the last word on the best of those
that 8 bits propose. The trunk stays float32: an evidence that is the small difference of large features amplifies their
rounding, and 8 bits anywhere in it flip verdicts (docs/model/precision.md has the figures). Ranges come from frames of
normal parts and are fixed in the file: the same frame has the same score in every batch.

Weights have 7 bits. Processors without VNNI add the products of bytes in pairs, in 16 bits: two of an unsigned byte and
a 7-bit weight fit in, two of an 8-bit weight may not, and the graph would score otherwise there.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from atsnet.imaging import Float32Array, UInt8Array
from model_export.bundle import INPUT_NAME
from model_export.graph import SEARCH_MODULE
from model_export.onnx_file import OnnxExportError

QUANTIZED_SCOPES: Final = re.compile(r"student(\.(?!.*_norm$).*)?")
"""Modules whose convolutions and resizings compute in 8 bits: the student's, but for the transformers' norms."""
Int8Array = npt.NDArray[np.int8]
Float64Array = npt.NDArray[np.float64]

_OPERATORS: Final = ("Conv", "Resize")
_LARGEST_WEIGHT: Final = 63
_ZERO: Final = 128
"""What 0 is as a byte, in the search."""
_HEADROOM: Final = 1.25
"""Of the search: positions of defective parts reach farther than those of normal ones."""
_MOST_MEMBERS: Final = 5
"""Prototypes that are proposed together."""
_PROPOSED: Final = 3
"""Sets of prototypes that float32 decides between, at each position."""
_MOST_AT_A_TIME: Final = 1024
"""Prototypes whose products with all positions of a frame stay in a processor's cache."""


def to_int8(
    content: bytes,
    frames: Sequence[UInt8Array],
    scopes: re.Pattern[str] = QUANTIZED_SCOPES,
    method: CalibrationMethod = CalibrationMethod.MinMax,
) -> bytes:
    """Quantise an ONNX file of `to_onnx` for CPUs.

    Inputs and outputs keep their types. The same file and frames always give the same bytes.

    Args:
        content: The file.
        frames: Of normal parts, `uint8 [H, W, C]` each; they fix the ranges.
        scopes: Matches the modules whose convolutions are quantised.
        method: How the ranges of activations are taken from what the frames show.

    Raises:
        ValueError: There are no frames.
        OnnxExportError: No convolution belongs to `scopes`.
    """
    if not frames:
        raise ValueError("ranges are learned from frames of normal parts; none were given")
    model = onnx.load_from_string(content)
    chosen = [
        node.name
        for node in model.graph.node
        if node.op_type in _OPERATORS and scopes.fullmatch(node.name.rpartition("/")[0])
    ]
    if not chosen:
        raise OnnxExportError(f"no convolution of the graph belongs to {scopes.pattern}; there is nothing to quantise")
    reach = {entry: _largest(model, entry, frames) for entry in _asked(model.graph)}
    model = _quantise(model, chosen, frames, method)
    for entry, largest in reach.items():
        _replace_search(model.graph, entry, largest)
    model.producer_name, model.producer_version = "atsnet", ""
    del model.metadata_props[:], model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Frames one by one, as ONNX Runtime's calibration wants them."""

    def __init__(self, frames: Sequence[UInt8Array]) -> None:
        self._rest: Iterator[UInt8Array] = iter(frames)

    def get_next(self) -> dict[str, UInt8Array] | None:
        frame = next(self._rest, None)
        return None if frame is None else {INPUT_NAME: frame[np.newaxis]}


def _quantise(
    model: onnx.ModelProto, names: Sequence[str], frames: Sequence[UInt8Array], method: CalibrationMethod
) -> onnx.ModelProto:
    add_pre_process_metadata(model)  # nothing is left to prepare: shapes are known, normalisation is folded
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Reader(frames),
            quant_format=QuantFormat.QDQ,
            calibrate_method=method,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_quantize=list(names),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


class _IntegerSearch:
    """Nodes that find the nearest prototype: 8 bits propose sets of them, float32 decides among their members.

    A prototype p is nearest to a position v where |p|^2 / 2 - v p is least. Both are rounded to bytes, and the first
    term becomes some components more, against constants, so that one product of integers has it all. Its error is far
    below the differences that matter, but not below those between a place's two nearest prototypes.
    """

    def __init__(self, prototypes: TensorProto, reach: float, entry: str, answer: str) -> None:
        self._table, self._prototypes = prototypes.name, numpy_helper.to_array(prototypes)
        self._reach, self._entry, self._answer = reach, entry, answer
        count = len(self._prototypes)
        self._members = max(d for d in range(1, _MOST_MEMBERS + 1) if count % d == 0)
        sets = count // self._members
        fitting = max(d for d in range(1, sets + 1) if sets % d == 0 and d * self._members <= _MOST_AT_A_TIME)
        self._at_a_time = fitting if fitting >= _PROPOSED else sets  # some numbers have no such divisor
        self._sets, self._proposed = sets, min(_PROPOSED, sets)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._decide(self._propose())

    def _propose(self) -> str:
        """The sets with the least products of each position, `int64 [P, proposed]`."""
        width = self._prototypes.shape[1]
        step = np.float32(_HEADROOM * self._reach / (255 - _ZERO))
        weights, coarse = _weights(self._prototypes, float(step))
        zero = self._constant("zero", np.uint8(_ZERO))
        rounded = self._node("QuantizeLinear", [self._entry, self._constant("step", step), zero])
        # Against the norms stand `coarse` components of 127 and one of 1.
        for count, value in ((coarse, 255), (1, _ZERO + 1)):
            ends = self._constant(f"ends_{value}", np.array([0, 0, 0, count], np.int64))
            rounded = self._node("Pad", [rounded, ends, self._constant(f"byte_{value}", np.uint8(value))])
        shape = self._constant("by_member", np.array([-1, self._members, self._at_a_time], np.int64))
        one = self._constant("one", np.array([1], np.int64))
        least: list[str] = []
        # Column j * sets + s of a part is member j of its set s: the least of a set is one of whole rows.
        by_set = weights.reshape(width + coarse + 1, self._sets, self._members)
        for start in range(0, self._sets, self._at_a_time):
            part = by_set[:, start : start + self._at_a_time].transpose(0, 2, 1).reshape(len(by_set), -1)
            product = self._node("MatMulInteger", [rounded, self._constant(f"weights_{start}", part), zero])
            least.append(self._node("ReduceMin", [self._node("Reshape", [product, shape]), one], keepdims=0))
        return self._least_sets(least)

    def _least_sets(self, least: Sequence[str]) -> str:
        """From the least of each set, `[P, sets of a part]` part by part, to numbers of sets, `int64 [P, proposed]`.

        First the places within a part that have the least values in any of them, then for each of these the part: a few
        out of many at once would take several times as long.
        """
        parts, proposed = len(least), self._proposed
        by_part = self._constant("by_part", np.array([-1, parts, self._at_a_time], np.int64))
        stacked = self._node("Reshape", [self._node("Concat", least, axis=1), by_part])
        one = self._constant("one", np.array([1], np.int64))
        anywhere = self._node("ReduceMin", [stacked, one], keepdims=0)
        many = self._constant("proposed", np.array([proposed], np.int64))
        places = self._node("TopK", [anywhere, many], outputs=2, largest=0)
        each = self._constant("each", np.array([-1, 1, proposed], np.int64))
        nowhere = self._constant("nowhere", np.zeros((1, parts, 1), np.int64))
        everywhere = self._node("Add", [self._node("Reshape", [places, each]), nowhere])
        values = self._node("GatherElements", [stacked, everywhere], axis=2)
        part = self._node("ArgMin", [values], axis=1, keepdims=0)
        start = self._node("Mul", [part, self._constant("sets_of_a_part", np.int64(self._at_a_time))])
        return self._node("Add", [start, places])

    def _decide(self, proposed: str) -> None:
        """The nearest of the members of the proposed sets, `int64 [P]`."""
        width, candidates = self._prototypes.shape[1], self._proposed * self._members
        half_norms = _half_norms(self._prototypes).astype(np.float32)
        numbers = np.arange(len(self._prototypes)).reshape(self._sets, self._members)
        to_sets = self._constant("to_sets", np.array([self._sets, self._members * width], np.int64))
        to_rows = self._constant("to_rows", np.array([-1, candidates], np.int64))
        to_vectors = self._constant("to_vectors", np.array([-1, candidates, width], np.int64))
        to_columns = self._constant("to_columns", np.array([-1, width, 1], np.int64))
        sets = self._node("Reshape", [self._table, to_sets])
        vectors = self._node("Reshape", [self._node("Gather", [sets, proposed]), to_vectors])
        products = self._node("MatMul", [vectors, self._node("Reshape", [self._entry, to_columns])])
        halves = self._constant("half_norms", half_norms.reshape(self._sets, self._members))
        norms = self._node("Reshape", [self._node("Gather", [halves, proposed]), to_rows])
        distances = self._node("Sub", [norms, self._node("Reshape", [products, to_rows])])
        best = self._node("ArgMin", [distances], axis=1, keepdims=1)
        known = self._node("Gather", [self._constant("numbers", numbers), proposed])
        number = self._node("GatherElements", [self._node("Reshape", [known, to_rows]), best], axis=1)
        last = self._constant("last", np.array([1], np.int64))
        self.nodes.append(
            helper.make_node("Squeeze", [number, last], [self._answer], name=f"{SEARCH_MODULE}/int8_{len(self.nodes)}")
        )

    def _node(self, operator: str, inputs: Sequence[str], outputs: int = 1, **attributes: int) -> str:
        """Add a node; the name of its last output."""
        name = f"{SEARCH_MODULE}/int8_{len(self.nodes)}"
        made = [f"{name}:{slot}" for slot in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), made, name=name, **attributes))  # type: ignore[arg-type]
        return made[-1]

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        name = f"{SEARCH_MODULE}.{name}"
        if name not in {tensor.name for tensor in self.constants}:
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def integer_search(
    prototypes: TensorProto, reach: float, entry: str, answer: str
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and constants of a search for the nearest prototype.

    Args:
        prototypes: `float32 [K, D]`, which stay in the graph.
        reach: The largest absolute component of a position, on frames of normal parts.
        entry: Name of the positions, `float32 [P, D]`.
        answer: Name of their nearest prototypes' indices, `int64 [P]`.
    """
    search = _IntegerSearch(prototypes, reach, entry, answer)
    return search.nodes, search.constants


def _weights(prototypes: Float32Array, step: float) -> tuple[Int8Array, int]:
    """Of the integer product that is least at the nearest prototype, `int8 [D + coarse + 1, K]`, and `coarse`."""
    scale = max(float(np.abs(prototypes).max()), 1e-12) / _LARGEST_WEIGHT
    directions = np.round(prototypes.T / -scale).astype(np.int8)
    norms = _half_norms(prototypes) / (scale * step)
    norms = np.round(norms - (norms.max() + norms.min()) / 2).astype(np.int64)
    constant = 255 - _ZERO
    digits = np.round(norms / constant).astype(np.int64)
    coarse = int(-(-np.abs(digits).max() // _LARGEST_WEIGHT)) or 1
    # Each digit in equal shares, the last of them with what is left.
    shares = [digits // coarse] * (coarse - 1)
    rows = np.stack([*shares, digits - sum(shares), np.clip(norms - constant * digits, -63, 63)])
    return np.concatenate([directions, rows.astype(np.int8)]), coarse


def _half_norms(prototypes: Float32Array) -> Float64Array:
    """Half the square of each prototype's length, `[K]`."""
    halves: Float64Array = np.square(prototypes, dtype=np.float64).sum(axis=1) / 2
    return halves


def _replace_search(graph: onnx.GraphProto, entry: str, reach: float) -> None:
    outside = [node for node in graph.node if not _searches(node)]
    made = {name for node in graph.node if _searches(node) for name in node.output}
    (answer,) = made & {name for node in outside for name in node.input}
    nodes, added = integer_search(_recalled_from(graph, outside), reach, entry, answer)
    place = 1 + next(index for index, node in enumerate(outside) if entry in node.output)
    del graph.node[:]
    graph.node.extend([*outside[:place], *nodes, *outside[place:]])
    used = {name for node in graph.node for name in node.input}
    constants = [*(tensor for tensor in graph.initializer if tensor.name in used), *added]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _recalled_from(graph: onnx.GraphProto, outside: Sequence[NodeProto]) -> TensorProto:
    """The prototypes: the one table of constants that anything is recalled from."""
    constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
    gathered = {node.input[0] for node in outside if node.op_type in ("Gather", "GatherND")} & constants.keys()
    tables = [constants[name] for name in gathered if len(constants[name].dims) == 2]
    if len(tables) != 1:
        raise OnnxExportError(f"the graph recalls from {len(tables)} tables, not from one memory")
    (table,) = tables
    return table


def _asked(graph: onnx.GraphProto) -> set[str]:
    """What the search takes besides constants: the positions; nothing where there is no memory."""
    inside = [node for node in graph.node if _searches(node)]
    known = {tensor.name for tensor in graph.initializer} | {name for node in inside for name in node.output} | {""}
    return {name for node in inside for name in node.input} - known


def _searches(node: NodeProto) -> bool:
    return node.name.startswith(f"{SEARCH_MODULE}/")


def _largest(model: onnx.ModelProto, name: str, frames: Sequence[UInt8Array]) -> float:
    """The largest absolute value of a tensor on frames."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return max(float(np.abs(session.run([name], {INPUT_NAME: frame[np.newaxis]})[0]).max()) for frame in frames)
