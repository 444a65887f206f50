"""Does the service stay as it is: memory and latency, minute by minute, at a share of what it can take.

    ATSNET_ARCHIVE_MAX_BYTES=0 python -m benchmarks.soak --minutes 10
    python -m benchmarks.soak --minutes 10 --network tec-grain-demo/1

Without the archive for the tiny network: images come faster than any disk takes them, and wait in memory for it.
Finds the peak in a closed loop, keeps the service at a share of it in an open one for a minute of warm-up and then for
so many minutes, and prints memory and latency of each. It ends with 1 where memory grew by more than 2 %, where a
request failed, or where the p99 of the later half is above that of the first half by more than a quarter and a
millisecond.
"""

import argparse
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants.inspecting import Options
from benchmarks.contestants.line_up import Contestant, check_answers
from benchmarks.load import Load, closed_loop, find_pace, find_wrk, open_loop, repeated
from benchmarks.processes import Program
from benchmarks.program import run_program
from benchmarks.tiny_bundle import NAME, write_tiny_bundle
from model_export.bundle import Bundle, load_bundle

MEMORY_SHARE = 0.02
P99_SHARE, P99_MS = 0.25, 1.0


@dataclass(frozen=True, slots=True)
class Minute:
    """What one of them brought."""

    load: Load
    rss_bytes: int
    cpu_s: float


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="tiny", help="tiny, or a bundle: NAME/VERSION under --weights")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--workers", type=int, default=1, help="HTTP processes")
    parser.add_argument("--sessions", type=int, default=2, help="networks that run at once")
    parser.add_argument("--share", type=float, default=0.8, help="of the peak")
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=60, help="length of a minute, for trying this out")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes: one at least, beside the warm-up")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the service is not left running
    find_wrk()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, bundle_name = options.weights.absolute(), options.network
        if options.network == "tiny":
            weights, bundle_name = folder, NAME
            write_tiny_bundle(folder)
        bundle = load_bundle(weights / bundle_name)
        setup = Options(weights, bundle_name, 0, options.sessions, 1, options.workers, Path())
        service = Contestant("the service", "benchmarks.contestants.ours", setup)
        with service.running(folder) as (program, url):
            check_answers(url, bundle, "float32")
            steady = _soak(program, url, bundle, options)
    sys.exit(0 if steady else 1)


def _soak(program: Program, url: str, bundle: Bundle, options: argparse.Namespace) -> bool:
    images = [bundle.file(sample.image) for sample in bundle.manifest.golden_samples]
    peak = repeated(lambda: closed_loop(url, images, 16, min(10, options.seconds))).rate
    pace = repeated(lambda: find_pace(url, images, options.share * peak))
    print(f"{options.network}, {options.workers} workers, {options.sessions} sessions; peak {peak:.0f}/s\n")
    print("| minute | verdicts/s | p50, ms | p99, ms | memory, MiB | CPU, s | failures |\n|" + " --- |" * 7)
    minutes: list[Minute] = []
    for number in range(options.minutes + 1):
        before = program.cpu_s()
        load = repeated(lambda: open_loop(url, images, pace, options.seconds))
        minute = Minute(load, program.rss_bytes(), program.cpu_s() - before)
        cells = [str(number) if number else "warm-up", f"{load.rate:.0f}", f"{load.p50_ms:.2f}", f"{load.p99_ms:.2f}"]
        cells += [f"{minute.rss_bytes / 2**20:.1f}", f"{minute.cpu_s:.1f}", str(load.failures)]
        print(f"| {' | '.join(cells)} |", flush=True)
        minutes.append(minute)
    return _judge(minutes)


def _judge(minutes: list[Minute]) -> bool:
    """Print what became of memory and p99 since the warm-up; whether both stayed."""
    grown = minutes[-1].rss_bytes / minutes[0].rss_bytes - 1
    measured = [minute.load.p99_ms for minute in minutes[1:]]
    first, later = measured[: (len(measured) + 1) // 2], measured[len(measured) // 2 :]
    earlier_ms, later_ms = statistics.median(first), statistics.median(later)
    failures = sum(minute.load.failures for minute in minutes)
    print(
        f"\nMemory {100 * grown:+.2f} % since the warm-up; median p99 {earlier_ms:.2f} ms in the first half and "
        f"{later_ms:.2f} ms in the second; {failures} failures."
    )
    return grown <= MEMORY_SHARE and later_ms <= (1 + P99_SHARE) * earlier_ms + P99_MS and failures == 0


if __name__ == "__main__":
    run_program(main)
