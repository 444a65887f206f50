"""The network alone, in threads of one process: frames that are ready, no HTTP, decoding or records.

Prints one line of JSON: the same figures that the load generator has of a server.
"""

import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson

from benchmarks.contestants.inspecting import options
from benchmarks.graph import golden_frames
from model_export.bundle import load_bundle
from service.runtimes.choice import make_runtime
from service.settings import load_settings

_WARM_UPS = 20


def main() -> None:
    """Run single frames in a closed loop: `python -m benchmarks.contestants.bare CLIENTS SECONDS`."""
    clients, seconds = int(sys.argv[1]), float(sys.argv[2])
    chosen = options()
    bundle = load_bundle(chosen.weights / chosen.bundle)
    runtime = make_runtime(load_settings(weights=chosen.weights, bundle=chosen.bundle, sessions=chosen.sessions))
    runtime.load(bundle)
    frames = [frame[np.newaxis] for frame in golden_frames(bundle)]

    def work(_: int) -> list[float]:
        durations: list[float] = []
        while (began := time.perf_counter()) < end:
            runtime.run(frames[len(durations) % len(frames)])
            durations.append(time.perf_counter() - began)
        return durations

    for number in range(_WARM_UPS):
        runtime.run(frames[number % len(frames)])
    used, began = _cpu_s(), time.perf_counter()
    end = began + seconds
    with ThreadPoolExecutor(clients) as pool:
        durations = [duration for part in pool.map(work, range(clients)) for duration in part]
    took = time.perf_counter() - began
    result = {
        "requests": len(durations),
        "seconds": took,
        "p50_ms": float(np.quantile(durations, 0.5)) * 1e3,
        "p99_ms": float(np.quantile(durations, 0.99)) * 1e3,
        "cpu_s": _cpu_s() - used,
        "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(orjson.dumps(result).decode())


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
