"""The load generator: wrk, which posts images over kept connections and is far faster than what it measures."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import orjson

_SCRIPT: Final = Path(__file__).with_name("post.lua")
_MARK: Final = "RESULT "
_TIMEOUT_S: Final = 10
_LEAST_CONNECTIONS: Final = 32
_MOST_CONNECTIONS: Final = 128
_LONGEST_PAUSE_S: Final = 1.5
_SHORTEST_PAUSE_S: Final = 0.001
_TRIAL_S: Final = 3
_TRIES: Final = 5
_CLOCK_S: Final = 1.0
"""How far the generator's clock may be from the length that was asked for."""


_T = TypeVar("_T")


class ClockSetError(Exception):
    """The machine's clock was set, or the machine stood still, during a measurement: its times mean nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a server did with a load."""

    requests: int
    """Answered, whatever the answer."""
    seconds: float
    p50_ms: float
    p99_ms: float
    failures: int
    """Answers of status 400 and above, broken connections, and answers that took more than 10 s."""
    generator_cpu_s: float

    @property
    def rate(self) -> float:
        """Requests a second that were answered as they should be."""
        return max(0, self.requests - self.failures) / self.seconds


def find_wrk() -> str:
    """Path of the load generator; ends the program where there is none."""
    path = shutil.which("wrk")
    if path is None:
        raise SystemExit("error: the load generator wrk is not installed; Debian and Ubuntu: apt-get install wrk")
    return path


def closed_loop(url: str, images: Sequence[Path], clients: int, seconds: float) -> Load:
    """Every client posts its next image when its last one is answered."""
    return _run(url, images, clients, seconds, ("loop", 0.0))


@dataclass(frozen=True, slots=True)
class Pace:
    """How often images come: from many connections, each of which pauses at random after its last answer.

    The pauses are exponential, so that together they are arrivals of a Poisson process. Only an image whose own
    connection still waits for an answer is late itself.
    """

    connections: int
    pause_s: float
    """On average; none is longer than 4 s, for servers close connections that say nothing."""


def find_pace(url: str, images: Sequence[Path], rate: float) -> Pace:
    """A pace of `rate` images a second, found by trying one for a short while: a warm-up as well."""
    connections = round(min(_MOST_CONNECTIONS, max(_LEAST_CONNECTIONS, rate * _LONGEST_PAUSE_S)))
    pause_s = connections / rate
    tried = open_loop(url, images, Pace(connections, pause_s), _TRIAL_S)
    answer_s = max(0.0, connections * tried.seconds / max(1, tried.requests) - pause_s)
    return Pace(connections, max(_SHORTEST_PAUSE_S, pause_s - answer_s))


def open_loop(url: str, images: Sequence[Path], pace: Pace, seconds: float) -> Load:
    """Images come at a pace, whether earlier ones are answered or not."""
    return _run(url, images, pace.connections, seconds, ("pauses", 1e3 * pace.pause_s))


def beat(url: str, images: Sequence[Path], rate: float, connections: int, seconds: float) -> Load:
    """Images come one by one, `rate` a second at even distances, as those of a line do.

    An image goes out on any connection that is free; as long as one is, earlier answers delay nothing.
    """
    return _run(url, images, connections, seconds, ("beat", 1e3 / rate))


def repeated(measure: Callable[[], _T]) -> _T:
    """Measure, and measure again when the clock was set meanwhile."""
    for _ in range(_TRIES):
        try:
            return measure()
        except ClockSetError as error:
            print(f"once more: {error}", file=sys.stderr)
    raise SystemExit(f"error: the machine's clock was set in each of {_TRIES} measurements")


def parse_result(output: str, generator_cpu_s: float) -> Load:
    """What the generator's script printed.

    Raises:
        ValueError: It printed no result.
    """
    for line in output.splitlines():
        if line.startswith(_MARK):
            found = orjson.loads(line.removeprefix(_MARK))
            return Load(
                requests=found["requests"],
                seconds=found["seconds"],
                p50_ms=found["p50_ms"],
                p99_ms=found["p99_ms"],
                failures=found["refused"] + found["broken"] + found["late"],
                generator_cpu_s=generator_cpu_s,
            )
    raise ValueError(f"the load generator printed no result: {output!r}")


def _run(url: str, images: Sequence[Path], connections: int, seconds: float, timing: tuple[str, float]) -> Load:
    command = [find_wrk(), "--threads", "1", "--connections", str(connections), "--duration", f"{round(seconds)}s"]
    command += ["--timeout", f"{_TIMEOUT_S}s", "--script", str(_SCRIPT), url, "--"]
    command += [timing[0], f"{timing[1]:.3f}"]
    before = _children_cpu_s()
    ran = subprocess.run([*command, *map(str, images)], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"error: {' '.join(command)} failed: {ran.stderr or ran.stdout}")
    load = parse_result(ran.stdout, _children_cpu_s() - before)
    if abs(load.seconds - seconds) > _CLOCK_S:
        raise ClockSetError(f"{seconds:g} s took {load.seconds:.1f} s by the machine's clock")
    return load


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
