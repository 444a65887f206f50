"""What a request costs in this service and in others: rates, times, CPU and memory, measured in turn in one run.

    python -m benchmarks.serving --network tiny --litserve-python venv/bin/python --plot serving.png
    python -m benchmarks.serving --network tec-grain-demo/1 --plot serving-real.png

`tiny` is a network of about 0.1 ms, so that what lies around it shows; the other one is a bundle. Every contestant
gets the same images, network, sessions, processors and warm-up, writes no access log, and runs alone, in turn with the
others. The load generator (wrk) runs beside it on the same processors. This service keeps a record of every verdict,
written through to the disk before it answers; the others keep none. Machines are noisy: compare what one run says.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from benchmarks.contestants.inspecting import Options
from benchmarks.contestants.line_up import Contestant, check_answers, run_bare
from benchmarks.load import Load, beat, closed_loop, find_pace, find_wrk, open_loop, repeated
from benchmarks.processes import Program
from benchmarks.program import run_program
from benchmarks.serving_report import BARE, LITSERVE, Figures, draw, median_of, print_criteria, print_table
from benchmarks.tiny_bundle import NAME, write_tiny_bundle
from model_export.bundle import Bundle, Precision, load_bundle
from service.settings import available_cpus

_WARM_UP_S: Final = 1
_TINY_BATCH: Final = 32


def main() -> None:
    """Print a table and what it says of the criteria."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # no contestant is left running
    if options.cpus:
        os.sched_setaffinity(0, options.cpus)
    find_wrk()
    with tempfile.TemporaryDirectory() as folder:
        if options.network == "tiny":
            write_tiny_bundle(Path(folder))
            setup = _setup(Path(folder), NAME, options.sessions or 2, _TINY_BATCH)
        else:
            setup = _setup(options.weights.absolute(), options.network, options.sessions or available_cpus(), 1)
        bundle = load_bundle(setup.weights / setup.bundle)
        contestants = _line_up(setup, options)
        figures: list[Figures] = []
        for number in range(options.rounds):
            figures += _bare(setup, options.seconds)
            # Each is the first one once, and nobody always runs after the same other.
            start = number % len(contestants)
            for contestant in contestants[start:] + contestants[:start]:
                print(f"round {number + 1} of {options.rounds}: {contestant.name}", file=sys.stderr, flush=True)
                figures += _measure(contestant, bundle, options)
    medians = median_of(figures)
    print(
        f"{options.network}, {setup.sessions} sessions, {available_cpus()} CPUs, {options.seconds} s each, medians of "
        f"{options.rounds} rounds; archive {'on' if options.archive else 'off'}\n"
    )
    print_table(medians)
    print()
    print_criteria(medians, tiny=options.network == "tiny", cpus=available_cpus(), precision=_precision())
    if options.json:
        options.json.write_bytes(orjson.dumps([asdict(figure) for figure in figures], option=orjson.OPT_INDENT_2))
    if options.plot:
        draw(medians, options.plot, options.network)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="tiny", help="tiny, or a bundle: NAME/VERSION under --weights")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--sessions", type=int, help="networks that run at once; 2 with tiny, else one for each CPU")
    parser.add_argument("--workers", type=int, default=2, help="HTTP processes of those that can have several")
    parser.add_argument("--clients", type=_integers, default=[1, 4, 16, 64], help="of the closed loop: 1,4,16,64")
    parser.add_argument("--shares", type=_numbers, default=[0.5, 0.8], help="of the peak, for the open loops: 0.5,0.8")
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="names of contestants with this in them, beside the bare runtime")
    parser.add_argument("--litserve-python", help="Python of an environment with litserve; left out without")
    parser.add_argument("--archive", action="store_true", help="let the service keep images as well")
    parser.add_argument("--cpus", type=_integers, help="processors that everything runs on: 0,1; all by default")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="every figure of every round")
    return parser.parse_args()


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _precision() -> Precision:
    precision: Precision = os.environ.get("ATSNET_PRECISION", "float32")  # type: ignore[assignment]
    return precision


def _setup(weights: Path, bundle: str, sessions: int, max_batch: int) -> Options:
    return Options(weights, bundle, port=0, sessions=sessions, max_batch=max_batch, workers=1, var=Path())


def _line_up(setup: Options, options: argparse.Namespace) -> list[Contestant]:
    several = Options(**{**asdict(setup), "workers": options.workers})
    variables = {} if options.archive else {"ATSNET_ARCHIVE_MAX_BYTES": "0"}
    package = "benchmarks.contestants"
    # Its environment has uvicorn with uvloop and httptools, which most who use FastAPI install.
    others = options.litserve_python or sys.executable
    contestants = [
        Contestant("this service, 1 process", f"{package}.ours", setup, variables=variables),
        Contestant(
            f"this service, {options.workers} workers and engine", f"{package}.ours", several, variables=variables
        ),
        Contestant("plain FastAPI, 1 process", f"{package}.plain_fastapi", setup, others),
        Contestant(f"plain FastAPI, {options.workers} processes", f"{package}.plain_fastapi", several, others),
    ]
    if options.litserve_python:
        name = f"{LITSERVE}, {options.workers} API processes, {setup.sessions} inference workers, ZeroMQ"
        one = Options(**{**asdict(setup), "sessions": 1})
        contestants += [
            Contestant(f"{LITSERVE}, 1 process of each kind", f"{package}.lit", one, options.litserve_python),
            Contestant(name, f"{package}.lit", several, options.litserve_python, {"BENCHMARK_FAST_QUEUE": "1"}),
        ]
    else:
        print("LitServe is left out: --litserve-python names none; see docs/performance.md", file=sys.stderr)
    return [contestant for contestant in contestants if options.only in contestant.name]


def _bare(setup: Options, seconds: float) -> list[Figures]:
    found = []
    for clients in sorted({1, setup.sessions}):
        result = run_bare(setup, clients, seconds)
        found.append(
            Figures(
                contestant=BARE,
                load=_clients(clients),
                rate=result["requests"] / result["seconds"],
                p50_ms=result["p50_ms"],
                p99_ms=result["p99_ms"],
                cpu_ms=1e3 * result["cpu_s"] / result["requests"],
                rss_mib=result["rss_bytes"] / 2**20,
                grown_kib=0.0,
                failures=0,
                generator_share=0.0,
            )
        )
    return found


def _measure(contestant: Contestant, bundle: Bundle, options: argparse.Namespace) -> list[Figures]:
    """One round of one contestant: every closed loop, then open loops at shares of the best of them."""
    images = [bundle.file(sample.image) for sample in bundle.manifest.golden_samples]
    found = []
    with tempfile.TemporaryDirectory() as folder, contestant.running(Path(folder)) as (program, url):
        check_answers(url, bundle, _precision())
        for clients in options.clients:
            repeated(partial(closed_loop, url, images, clients, _WARM_UP_S))
            measure = partial(closed_loop, url, images, clients, options.seconds)
            found.append(repeated(partial(_bill, program, measure, contestant.name, _clients(clients))))
        best = max(found, key=lambda figures: figures.rate)
        for share in options.shares:
            pace = repeated(partial(find_pace, url, images, share * best.rate))
            measure = partial(open_loop, url, images, pace, options.seconds)
            found.append(repeated(partial(_bill, program, measure, contestant.name, f"{share:.0%} at random")))
            measure = partial(beat, url, images, share * best.rate, pace.connections, options.seconds)
            found.append(repeated(partial(_bill, program, measure, contestant.name, f"{share:.0%} at a beat")))
    return found


def _clients(number: int) -> str:
    return f"{number} client{'s' if number > 1 else ''}"


def _bill(program: Program, measure: Callable[[], Load], contestant: str, kind: str) -> Figures:
    """What a load got, and what the program used for it."""
    cpu_s, rss = program.cpu_s(), program.rss_bytes()
    load = measure()
    cpu_s, grown = program.cpu_s() - cpu_s, program.rss_bytes() - rss
    requests = max(1, load.requests)
    return Figures(
        contestant=contestant,
        load=kind,
        rate=load.rate,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        cpu_ms=1e3 * cpu_s / requests,
        rss_mib=(rss + grown) / 2**20,
        grown_kib=grown / 2**10 / requests,
        failures=load.failures,
        generator_share=load.generator_cpu_s / load.seconds,
    )


if __name__ == "__main__":
    run_program(main)
