"""Who takes part, and how each is started."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from benchmarks.contestants.inspecting import Options
from benchmarks.processes import Program
from model_export.bundle import Bundle, Precision

_ROOT: Final = Path(__file__).parents[2]
_START_S: Final = 120.0
_PATH: Final = "/v1/inspections"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that inspects images."""

    name: str
    module: str
    options: Options
    python: str = sys.executable
    variables: Mapping[str, str] | None = None

    @contextmanager
    def running(self, folder: Path) -> Iterator[tuple[Program, str]]:
        """Its processes, once they take connections, and where to post images.

        Args:
            folder: A new directory, for what it writes.
        """
        port = _free_port()
        options = replace(self.options, port=port, var=folder / "var")
        environment = {**_environment(options), **(self.variables or {})}
        program = Program([self.python, "-m", self.module], environment, folder / "log")
        try:
            _wait(program, port)
            yield program, f"http://127.0.0.1:{port}{_PATH}"
        finally:
            program.stop()


def run_bare(options: Options, clients: int, seconds: float) -> dict[str, float]:
    """Figures of the network alone, from a process of its own; see `contestants.bare`."""
    command = [sys.executable, "-m", "benchmarks.contestants.bare", str(clients), str(seconds)]
    ran = subprocess.run(
        command, env={**os.environ, **_environment(options)}, stdout=subprocess.PIPE, check=True, timeout=seconds + 600
    )
    figures: dict[str, float] = orjson.loads(ran.stdout.splitlines()[-1])
    return figures


def check_answers(url: str, bundle: Bundle, precision: Precision) -> None:
    """Post every golden sample once.

    Raises:
        SystemExit: An answer is not that of the bundle: another network runs, or it is fed otherwise.
    """
    threshold = bundle.manifest.calibration.score_threshold
    tolerance = 2 * bundle.manifest.score_tolerances.get(precision, bundle.manifest.score_tolerance)
    with httpx.Client(timeout=60, trust_env=False) as http:
        for sample in bundle.manifest.golden_samples:
            response = _post(http, url, bundle.file(sample.image).read_bytes())
            expected = bundle.golden_answer(sample, precision).score / threshold
            if response.status_code != 200 or abs(response.json()["score"] - expected) > tolerance * max(1, expected):
                raise SystemExit(f"error: {url} answered {response.text!r} to {sample.image}; its score is {expected}")


def _post(http: httpx.Client, url: str, image: bytes) -> httpx.Response:
    limit = time.monotonic() + _START_S
    while True:
        response = http.post(url, content=image, headers={"Content-Type": "image/png"})
        if response.status_code != 503 or time.monotonic() > limit:  # it is still starting
            return response
        time.sleep(0.1)


def _wait(program: Program, port: int) -> None:
    limit = time.monotonic() + _START_S
    while time.monotonic() < limit and not program.ended:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"error: it did not start: {program.log.read_text()[-2000:]}")


def _environment(options: Options) -> dict[str, str]:
    # Every contestant computes with as many threads as it is told, and not with more inside its libraries.
    return {**options.variables(), "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: Any = taken.getsockname()[1]
        return int(port)
