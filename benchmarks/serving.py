"""What the service adds to the bare network: both are measured in one run, and the ratio is what counts.

    python benchmarks/serving.py --bundle tec-grain-demo/1 --seconds 10

Starts the service as a process of its own on a free port, posts golden samples in a closed loop, and runs the same
frames through the same runtime without HTTP, decoding or records. Machines are noisy: compare ratios, not figures of
different runs.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from atsnet.imaging import read_image, to_frame
from model_export.bundle import Bundle, load_bundle
from service.runtimes.onnx import OnnxCpuRuntime


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="tec-grain-demo/1", help="NAME/VERSION under weights/")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--sessions", type=int, default=2, help="sessions of the runtime, for both")
    parser.add_argument("--clients", type=int, default=4, help="requests under way at once, for the throughput")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each of the four measurements")
    options = parser.parse_args()
    bundle = load_bundle(options.weights / options.bundle)
    bare_lone, bare_rate = _measure_bare(bundle, options.sessions, options.seconds)
    http_lone, http_rate = _measure_service(bundle, options)
    print(f"{options.bundle}, {options.sessions} sessions, {options.clients} clients, {options.seconds:g} s each\n")
    print("| | bare runtime | over HTTP | ratio |")
    print("| --- | --- | --- | --- |")
    bare_ms, http_ms = statistics.median(bare_lone) * 1e3, statistics.median(http_lone) * 1e3
    print(f"| lone request, p50 ms | {bare_ms:.1f} | {http_ms:.1f} | {http_ms / bare_ms:.2f} |")
    print(f"| lone request, p99 ms | {_p99(bare_lone):.1f} | {_p99(http_lone):.1f} | |")
    print(f"| inspections a second | {bare_rate:.1f} | {http_rate:.1f} | {http_rate / bare_rate:.2f} |")


def _measure_bare(bundle: Bundle, sessions: int, seconds: float) -> tuple[list[float], float]:
    runtime = OnnxCpuRuntime(sessions)
    runtime.load(bundle)
    geometry = bundle.manifest.input
    frames = [
        to_frame(read_image(bundle.file(sample.image)), geometry).pixels for sample in bundle.manifest.golden_samples
    ]

    def run(number: int) -> None:
        runtime.run(frames[number % len(frames)][np.newaxis])

    return _loop(run, 1, seconds)[0], _loop(run, sessions, seconds)[1]


def _measure_service(bundle: Bundle, options: argparse.Namespace) -> tuple[list[float], float]:
    bodies = [bundle.file(sample.image).read_bytes() for sample in bundle.manifest.golden_samples]
    with tempfile.TemporaryDirectory() as var:
        command = [sys.executable, "-c", "from cli.main import main; main()", "serve", "--port", "0", "--var", var]
        command += ["--weights", str(options.weights), "--bundle", options.bundle]
        command += ["--sessions", str(options.sessions), "--log-level", "error"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            found = re.search(r"http://\S+", service.stdout.readline())
            if found is None:
                raise SystemExit("the service did not start; see its error above")
            local = threading.local()

            def post(number: int) -> None:
                if not hasattr(local, "client"):
                    local.client = httpx.Client(base_url=found[0])
                body = bodies[number % len(bodies)]
                local.client.post("/v1/inspections", content=body).raise_for_status()

            try:
                return _loop(post, 1, options.seconds)[0], _loop(post, options.clients, options.seconds)[1]
            finally:
                service.terminate()


def _loop(call: Callable[[int], None], workers: int, seconds: float) -> tuple[list[float], float]:
    """Call in a closed loop from `workers` threads: every call's seconds, and calls a second."""
    for number in range(3):
        call(number)
    end = time.perf_counter() + seconds

    def work(worker: int) -> list[float]:
        durations = []
        while (begin := time.perf_counter()) < end:
            call(worker + workers * len(durations))
            durations.append(time.perf_counter() - begin)
        return durations

    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        durations = [duration for part in pool.map(work, range(workers)) for duration in part]
    return durations, len(durations) / (time.perf_counter() - begin)


def _p99(durations: list[float]) -> float:
    return float(np.quantile(durations, 0.99)) * 1e3


if __name__ == "__main__":
    main()
