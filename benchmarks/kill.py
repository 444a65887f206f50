"""What a kill -9 of a worker, of the engine and of the supervisor costs, under load.

    python -m benchmarks.kill --bundle tec-grain-demo/1 --kills 3

Starts the service with its processes on a free port, keeps clients posting golden samples, each part with a key of its
own, and kills one process after the other. Then it asks for the record of every verdict that was answered. Times end
when the service's log is seen to tell of it, 10 ms at most after it did. Machines are noisy: the figures are those of
one run.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from benchmarks.program import run_program
from model_export.bundle import load_bundle

HUNG_S = 10.0
"""A request that takes longer counts as hung."""


_OUTCOMES = ("verdict", "error verdict", "refused", "connection broken", "hung")


@dataclass
class Tally:
    """What clients got while one kind of process was killed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    noticed_ms: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)


class Service:
    """The command as a process, and what its log says."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._log = folder / "log"
        command = [sys.executable, "-c", "from cli.main import main; main()", "serve", "--port", "0"]
        command += ["--weights", str(options.weights), "--bundle", options.bundle, "--var", str(folder / "var")]
        command += ["--sessions", str(options.sessions), "--log-level", "info", "--log-format", "json"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "ATSNET_WORKERS": str(options.workers)},
            )
        assert self.process.stdout is not None
        banner = self.process.stdout.readline()
        if not banner:
            raise SystemExit(f"the service did not start: {self._log.read_text()}")
        self.url = banner.split()[3]

    def lines(self) -> list[str]:
        """Of the log; the last one may still be written, and is left out."""
        return self._log.read_text().rpartition("\n")[0].splitlines()

    def events(self, event: str, since: int = 0, process: str = "") -> list[dict[str, Any]]:
        """The lines of one event, oldest first, without the first `since` of the log."""
        parsed = (orjson.loads(text) for text in self.lines()[since:] if text.startswith("{"))
        return [
            line for line in parsed if line["event"] == event and process in line.get("process", line.get("name", ""))
        ]

    def pid(self, name: str) -> int:
        """Of the newest process of that name."""
        return int(next(line["pid"] for line in reversed(self.events("process_started")) if line["name"] == name))

    def pids(self) -> list[int]:
        """Of every process that was ever started."""
        return [line["pid"] for line in self.events("process_started")]


class Clients:
    """Post one part after the other until they are told to stop."""

    def __init__(self, url: str, images: list[bytes], count: int) -> None:
        self.tally = Tally()
        self.answered: list[dict[str, Any]] = []
        self._url, self._images = url, images
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=[number]) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _post(self, number: int) -> None:
        http = httpx.Client(base_url=self._url, timeout=3 * HUNG_S, trust_env=False)
        trigger = 0
        while not self._stop.is_set():
            trigger += 1
            began = time.monotonic()
            try:
                response = http.post(
                    "/v1/inspections",
                    content=self._images[trigger % len(self._images)],
                    params={"station": f"s{number}", "serial": "A", "trigger": trigger},
                )
            except httpx.TransportError:
                outcome = "connection broken"
                time.sleep(0.01)
            else:
                document = response.json()
                outcome = {200: "verdict", 500: "error verdict", 503: "refused"}.get(
                    response.status_code, f"status {response.status_code}"
                )
                if response.status_code == 200:
                    self.answered.append(document)
                else:
                    time.sleep(0.01)
            tally, took = self.tally, time.monotonic() - began
            tally.outcomes["hung" if took > HUNG_S else outcome] += 1
            tally.longest_s = max(tally.longest_s, took)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="tec-grain-demo/1", help="NAME/VERSION under weights/")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--workers", type=int, default=2, help="HTTP workers, two or more")
    parser.add_argument("--sessions", type=int, default=2, help="sessions of the runtime")
    parser.add_argument("--clients", type=int, default=8, help="requests under way at once")
    parser.add_argument("--kills", type=int, default=3, help="of the engine, and as many of a worker")
    options = parser.parse_args()
    if options.workers < 2:
        parser.error("--workers: with fewer than two there are no processes to kill")
    bundle = load_bundle(options.weights / options.bundle)
    images = [bundle.file(sample.image).read_bytes() for sample in bundle.manifest.golden_samples]
    with tempfile.TemporaryDirectory() as folder:
        service = Service(options, Path(folder))
        try:
            _measure(service, images, options)
        finally:
            service.process.kill()
            service.process.wait()


def _measure(service: Service, images: list[bytes], options: argparse.Namespace) -> None:
    clients = Clients(service.url, images, options.clients)
    workers = [f"worker-{number}" for number in range(options.workers)]
    try:
        time.sleep(2)
        engine = clients.tally = Tally()
        for _ in range(options.kills):
            _kill(service, "engine", engine, workers, ("engine_lost", workers))
        worker = clients.tally = Tally()
        for number in range(options.kills):
            name = workers[number % len(workers)]
            _kill(service, name, worker, [name], ("process_ended", [name]))
    finally:
        clients.stop()
    print(f"{options.bundle}, {options.workers} workers, {options.sessions} sessions, {options.clients} clients\n")
    heads = ["killed", "times", "noticed, ms", "ready again, s", *_OUTCOMES, "longest wait, s"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name, tally in (("engine", engine), ("worker", worker)):
        noticed, ready = max(tally.noticed_ms), tally.ready_s
        cells = [name, str(options.kills), f"{noticed:.0f} at most"]
        cells += [f"{statistics.median(ready):.1f}, at most {max(ready):.1f}"]
        cells += [*(str(tally.outcomes[outcome]) for outcome in _OUTCOMES), f"{tally.longest_s:.1f}"]
        print(f"| {' | '.join(cells)} |")
    others = set(engine.outcomes + worker.outcomes) - set(_OUTCOMES)
    print(f"\nOther outcomes: {', '.join(sorted(others)) or 'none'}.")
    with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as http:
        lost = [reply for reply in clients.answered if not _is_recorded(http, reply)]
    print(f"{len(clients.answered)} verdicts were answered; {len(lost)} of them are not in the records.")
    _end(service)


def _kill(service: Service, name: str, tally: Tally, waiting_for: list[str], notice: tuple[str, list[str]]) -> None:
    """Kill a process, wait until all that wait for it are ready again, and a little longer."""
    pid, since, killed = service.pid(name), len(service.lines()), time.monotonic()
    os.kill(pid, signal.SIGKILL)
    _until(lambda: _each(service, notice[1], notice[0], since))
    tally.noticed_ms.append((time.monotonic() - killed) * 1e3)
    _until(lambda: _each(service, waiting_for, "ready", since))
    tally.ready_s.append(time.monotonic() - killed)
    time.sleep(2)


def _each(service: Service, names: list[str], event: str, since: int) -> bool:
    """Whether each of these processes has told of an event."""
    return all(service.events(event, since, name) for name in names)


def _until(seen: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not seen():
        if time.monotonic() > limit:
            raise SystemExit("the service did not recover within 120 s")
        time.sleep(0.01)


def _is_recorded(http: httpx.Client, reply: dict[str, Any]) -> bool:
    response = http.get(f"/v1/inspections/{reply['id']}")
    return response.status_code == 200 and response.json()["score"] == reply["score"]


def _end(service: Service) -> None:
    """Kill the supervisor, and see what is left of the others."""
    mapped = [Path(f"/proc/{pid}/maps") for pid in service.pids() if _alive(pid)]
    in_shm = [path for path in mapped if "/dev/shm" in path.read_text()]
    before = time.monotonic()
    service.process.kill()
    service.process.wait()
    while any(_alive(pid) for pid in service.pids()) and time.monotonic() < before + 30:
        time.sleep(0.02)
    left = [pid for pid in service.pids() if _alive(pid)]
    print(f"After a kill of the supervisor {len(left)} processes are left ({time.monotonic() - before:.1f} s).")
    print(f"{len(in_shm)} of {len(mapped)} processes had anything in /dev/shm.")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    run_program(main)
