"""What the network asks for, and how near to the machine's limit it runs: parameters, MACs, bytes, and a floor.

    python -m benchmarks.cost --bundle tec-grain-demo/1 --plot cost.png

The floor is the time that the network's multiply-accumulates (MACs) take at the highest speed that matrix products
reach on one core of this machine, measured in turn with the network: no runtime that computes all of them in that
precision can be faster. Counted are the MACs of `atsnet model summary`; 1 MAC is 2 operations.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from onnx import TensorProto, helper

from atsnet.config import Config, NetworkConfig
from atsnet.network.summary import NetworkSummary, summarise
from benchmarks.graph import INPUT, OUTPUTS, golden_frames, open_session
from benchmarks.program import run_program
from model_export.bundle import Bundle, load_bundle

_SIDE: Final = 1024
"""Of the matrices: large enough to be limited by arithmetic, small enough for the cache."""

Arithmetic = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class Floor:
    """How far a graph is from the machine's limit, on one core."""

    precision: Arithmetic
    gmacs: float
    """Highest speed of matrix products, 10^9 multiply-accumulates a second."""
    by: str
    """What reached it."""
    floor_ms: float
    frame_ms: float | None
    """CPU time of one frame, median; where the bundle has a graph of this precision."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="tec-grain-demo/1", help="NAME/VERSION under --weights")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--rounds", type=int, default=15, help="matrix products and frames, in turn")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(options.weights / options.bundle)
    counted = _count(bundle)
    print_parts(counted)
    print()
    print_files(bundle)
    print()
    floors = [_floor(bundle, precision, counted.macs, options.rounds) for precision in get_args(Arithmetic)]
    print_floors(floors)
    if options.plot:
        _draw(counted, floors, options.plot, options.bundle)


def print_parts(counted: NetworkSummary) -> None:
    """Parameters and MACs by part."""
    print(f"One frame of {counted.height}x{counted.width}:\n")
    print("| part | parameters | MB float32 | MMAC | share of MACs |\n| --- | --- | --- | --- | --- |")
    for part in counted.parts:
        size, share = 4 * part.parameters / 1e6, part.macs / counted.macs
        print(f"| {part.name} | {part.parameters:,} | {size:.2f} | {part.macs / 1e6:,.1f} | {share:.1%} |")
    size = counted.parameter_bytes / 1e6
    print(f"| **total** | {counted.parameters:,} | {size:.2f} | {counted.macs / 1e6:,.1f} | |")


def print_files(bundle: Bundle) -> None:
    """The bundle's graphs."""
    print("| graph | file | MB |\n| --- | --- | --- |")
    for precision, name in bundle.manifest.graphs.items():
        print(f"| {precision} | {name} | {bundle.file(name).stat().st_size / 1e6:.2f} |")


def print_floors(floors: Sequence[Floor]) -> None:
    """Floor and share of each precision."""
    heads = ("precision, one core", "matrix products, GMAC/s", "by", "floor, ms", "CPU, ms a frame", "share reached")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for floor in floors:
        cells = [floor.precision, f"{floor.gmacs:.1f}", floor.by, f"{floor.floor_ms:.1f}"]
        reached = ["no graph", ""]
        if floor.frame_ms is not None:
            reached = [f"{floor.frame_ms:.1f}", f"{floor.floor_ms / floor.frame_ms:.0%}"]
        print(f"| {' | '.join([*cells, *reached])} |")


def _count(bundle: Bundle) -> NetworkSummary:
    manifest = bundle.manifest
    return summarise(Config(network=NetworkConfig.model_validate(manifest.network), input=manifest.input))


def _floor(bundle: Bundle, precision: Arithmetic, macs: int, rounds: int) -> Floor:
    session = open_session(bundle.graph(precision)) if precision in bundle.manifest.graphs else None
    frames = golden_frames(bundle)
    products = dict(_products(precision))
    fastest = dict.fromkeys(products, float("inf"))
    durations = []
    for number in range(rounds):
        for name, product in products.items():
            fastest[name] = min(fastest[name], _cpu_s(product))
        if session is not None:
            durations.append(_cpu_s(partial(session.run, OUTPUTS, {INPUT: frames[[number % len(frames)]]})))
    best = min(fastest, key=lambda name: fastest[name])
    gmacs = _SIDE**3 / fastest[best] / 1e9
    frame_ms = 1e3 * statistics.median(durations) if durations else None
    return Floor(precision, gmacs, best, macs / gmacs / 1e6, frame_ms)


def _products(precision: Arithmetic) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Matrix products of two matrices of `_SIDE` squared, by whoever offers them, on one thread."""
    random = np.random.default_rng(0)
    if precision == "float32":
        left, right = (random.normal(size=(_SIDE, _SIDE)).astype(np.float32) for _ in range(2))
        tensors = torch.from_numpy(left), torch.from_numpy(right)
        yield "PyTorch", lambda: torch.mm(*tensors)
        session = _product_session("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, right)
    else:
        left = random.integers(0, 255, (_SIDE, _SIDE), np.uint8)
        right = random.integers(-127, 127, (_SIDE, _SIDE), np.int8)
        session = _product_session("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, right)
    yield "ONNX Runtime", lambda: session.run(None, {"left": left})


def _product_session(operator: str, left: int, right: int, result: int, weights: np.ndarray) -> Any:
    # The right matrix is a constant, as weights are, so that it is packed once.
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", left, [_SIDE, _SIDE])],
        [helper.make_tensor_value_info("product", result, [_SIDE, _SIDE])],
        [helper.make_tensor("right", right, weights.shape, weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return open_session(model.SerializeToString())


def _cpu_s(call: Callable[[], Any]) -> float:
    """CPU time of this process in a call: other work on the machine hardly shows in it."""
    used = time.process_time()
    call()
    return time.process_time() - used


def _draw(counted: NetworkSummary, floors: Sequence[Floor], path: Path, title: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (parts, times) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    shown = [part for part in counted.parts if part.macs]
    parts.barh([part.name for part in shown], [part.macs / 1e6 for part in shown])
    parts.invert_yaxis()
    parts.set(xlabel="MMAC a frame")
    names = [floor.precision for floor in floors]
    times.bar(names, [floor.frame_ms or 0 for floor in floors], label="CPU time of one frame, one core")
    times.bar(names, [floor.floor_ms for floor in floors], label="floor by the speed of matrix products")
    times.set(ylabel="ms")
    times.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    run_program(main)
