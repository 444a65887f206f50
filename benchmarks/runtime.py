"""What one frame costs by runtime, precision, batch and threads: CPU time, time, frames a second.

    python -m benchmarks.runtime --bundle tec-grain-demo/1 --plot runtime.png

On the CPU every way to use the processors takes its turn in each round: one session on one thread, one session on all
of them, and a session of one thread for each, which is what the service does. A GPU's runtimes are measured where they
start; where they do not, the reason is printed. Machines are noisy: compare what one run says.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atsnet.imaging import UInt8Array
from benchmarks.graph import INPUT, OUTPUTS, golden_frames, open_session
from benchmarks.program import run_program
from model_export.bundle import Bundle, Precision, load_bundle
from service.runtimes.choice import make_runtime
from service.runtimes.protocol import RuntimeUnusableError
from service.settings import available_cpus, load_settings

_WARM_UPS = 3

Run = Callable[[UInt8Array], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One way to run the network."""

    runtime: str
    precision: str
    batch: int
    sessions: int
    threads: int
    """Of each session."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What it costs."""

    cpu_ms: float
    """User and system time of the whole process, by frame."""
    call_ms: float
    """Median time of one call, which takes a batch."""
    rate: float
    """Frames a second."""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="tec-grain-demo/1", help="NAME/VERSION under --weights")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--batches", type=_integers, default=[1, 4, 16], help="frames in one call: 1,4,16")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    bundle = load_bundle(options.weights / options.bundle)
    frames = golden_frames(bundle)
    costs: dict[Case, list[Cost]] = {}
    for _ in range(options.rounds):
        for case in cpu_cases(bundle, options.batches, available_cpus()):
            session = [open_session(bundle.graph(_precision(case)), case.threads) for _ in range(case.sessions)]
            runs = [_runner(each) for each in session]
            costs.setdefault(case, []).append(_measure(runs, frames, case.batch, options.seconds))
    missing = []
    for name in ("cuda", "tensorrt"):
        try:
            with _loaded(name, options.weights, options.bundle, bundle) as (precision, lanes, run):
                for _, batch in itertools.product(range(options.rounds), options.batches):
                    case = Case(name, precision, batch, lanes, 1)
                    cost = _measure([run] * lanes, frames, batch, options.seconds)
                    costs.setdefault(case, []).append(cost)
        except (RuntimeUnusableError, ImportError) as error:
            missing.append(f"{name}: not on this machine: {error}")
    medians = {case: _median(found) for case, found in costs.items()}
    print(
        f"{options.bundle}, {available_cpus()} CPUs, {options.seconds:g} s each, medians of {options.rounds} rounds\n"
    )
    print_table(medians)
    print("".join(f"\n{line}" for line in missing))
    if options.plot:
        _draw(medians, options.plot, options.bundle)


def cpu_cases(bundle: Bundle, batches: Sequence[int], cpus: int) -> list[Case]:
    """Every precision that CPUs have instructions for, every batch, and the ways to use the processors."""
    precisions = [precision for precision in bundle.manifest.graphs if precision != "float16"]
    ways = dict.fromkeys([(1, 1), (1, cpus), (cpus, 1)])
    return [Case("cpu", *parts, *way) for *parts, way in itertools.product(precisions, batches, ways)]


def print_table(costs: dict[Case, Cost]) -> None:
    """As Markdown."""
    heads = ("runtime", "precision", "batch", "sessions", "threads of each", "CPU, ms a frame", "ms a call", "frames/s")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for case, cost in sorted(costs.items(), key=lambda item: (item[0].runtime, item[0].precision)):
        cells = [case.runtime, case.precision, str(case.batch), str(case.sessions), str(case.threads)]
        cells += [f"{cost.cpu_ms:.2f}", f"{cost.call_ms:.2f}", f"{cost.rate:,.1f}"]
        print(f"| {' | '.join(cells)} |")


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _precision(case: Case) -> Precision:
    return case.precision  # type: ignore[return-value]


def _runner(session: Any) -> Run:
    return lambda frames: session.run(OUTPUTS, {INPUT: frames})


@contextmanager
def _loaded(name: str, weights: Path, served: str, bundle: Bundle) -> Iterator[tuple[str, int, Run]]:
    """A runtime of the service: the precision that it runs, its lanes, and how to call it."""
    with tempfile.TemporaryDirectory() as var:
        runtime = make_runtime(load_settings(runtime=name, weights=weights, bundle=served, var=Path(var)))
        try:
            runtime.load(bundle)
            description = runtime.describe()
            yield description.precision, description.lanes, runtime.run
        finally:
            runtime.close()


def _measure(runs: Sequence[Run], frames: UInt8Array, batch: int, seconds: float) -> Cost:
    """Call each of `runs` from a thread of its own, again and again."""
    batches = [frames[np.arange(start, start + batch) % len(frames)] for start in range(len(frames))]
    for run in runs:
        for number in range(_WARM_UPS):
            run(batches[number % len(batches)])
    end = time.perf_counter() + seconds

    def work(run: Run) -> list[float]:
        durations: list[float] = []
        while (began := time.perf_counter()) < end:
            run(batches[len(durations) % len(batches)])
            durations.append(time.perf_counter() - began)
        return durations

    used, began = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(len(runs)) as pool:
        durations = [duration for part in pool.map(work, runs) for duration in part]
    took, used = time.perf_counter() - began, time.process_time() - used
    count = batch * len(durations)
    return Cost(1e3 * used / count, 1e3 * statistics.median(durations), count / took)


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in Cost.__slots__))


def _draw(costs: dict[Case, Cost], path: Path, title: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 1.5 + 0.35 * len(costs)), layout="constrained", sharey=True)
    ordered = sorted(costs, key=lambda case: (case.runtime, case.precision, case.batch, case.sessions))
    names = [f"{case.runtime} {case.precision}, batch {case.batch}, {case.sessions}x{case.threads}" for case in ordered]
    axes[0].barh(names, [costs[case].cpu_ms for case in ordered])
    axes[0].set(xlabel="CPU, ms a frame")
    axes[0].invert_yaxis()
    axes[1].barh(names, [costs[case].rate for case in ordered], color="tab:orange")
    axes[1].set(xlabel="frames/s")
    figure.suptitle(f"{title} (sessions x threads of each)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    run_program(main)
