"""The service as processes of its own, in either form, and what drives it there."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
from serving import DEFECTIVE, GOOD

LIMIT_S = 30.0
"""No answer takes this long, whatever dies."""

ONE_PROCESS = """
import signal, sys
from service.runtimes.fake import FakeRuntime
from service.server import serve
from service.settings import load_settings
runtime = FakeRuntime()
signal.signal(signal.SIGUSR1, lambda *_: runtime.block())
signal.signal(signal.SIGUSR2, lambda *_: runtime.release())
sys.exit(serve(load_settings(), runtime))
"""
"""Serves with a runtime that blocks on SIGUSR1 and goes on with SIGUSR2."""

SEVERAL = """
import sys
from service.server import serve
from service.settings import load_settings
sys.exit(serve(load_settings(), engine_runtime="blocking_runtime:make"))
"""
"""The same with the runtime in an engine's process."""


class Server:
    """A started process, ready to inspect."""

    def __init__(self, process: subprocess.Popen[str], banner: list[str], http: httpx.Client) -> None:
        self.process = process
        self.banner = banner
        self.http = http

    def post(self, query: dict[str, Any] | None = None) -> httpx.Response:
        return self.http.post("/v1/inspections", content=DEFECTIVE, params=query)

    def in_flight_reaches_the_runtime(self) -> bool:
        return "inspect_batch_size_count 1.0" in self.http.get("/metrics").text


class Service:
    """A started service of several processes."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    def events(self, event: str) -> list[dict[str, Any]]:
        complete = self._log.read_text().rpartition("\n")[0].splitlines()  # the last line may still be written
        lines = (orjson.loads(line) for line in complete if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def pid(self, name: str) -> int:
        """Of the newest process of that name."""
        return int(next(line["pid"] for line in reversed(self.events("process_started")) if line["name"] == name))

    def pids(self) -> list[int]:
        return [line["pid"] for line in self.events("process_started")]

    def signal(self, name: str, told: signal.Signals) -> None:
        os.kill(self.pid(name), told)

    def get(self, path: str) -> httpx.Response:
        """On a connection of its own, and so from any of the workers."""
        return httpx.get(self.url + path, timeout=LIMIT_S, trust_env=False)

    def post(self, image: bytes = GOOD, query: dict[str, Any] | None = None) -> httpx.Response:
        return httpx.post(self.url + "/v1/inspections", content=image, params=query, timeout=LIMIT_S, trust_env=False)

    def ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def metric(self, sample: str) -> float:
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return 0.0 if found is None else float(found[1])


@contextmanager
def launched(program: str, folder: Path, **settings: object) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A program that serves, and the three lines that it begins with; its log is `log` in the folder."""
    with (
        (folder / "log").open("a") as log,
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment(folder, **settings),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            banner = [process.stdout.readline() for _ in range(3)]
            assert banner[0], (folder / "log").read_text()
            yield process, banner
        finally:
            process.kill()


@contextmanager
def one_process(folder: Path, *, before: str = "", **settings: object) -> Iterator[Server]:
    """The service in one process.

    Args:
        folder: Of its bundles, what it writes, and its log.
        before: What the program does first.
        settings: Of the service.
    """
    with (
        launched(before + ONE_PROCESS, folder, **settings) as (process, banner),
        httpx.Client(base_url=banner[0].split()[3], timeout=30, trust_env=False) as http,
    ):
        yield Server(process, banner, http)


@contextmanager
def several_processes(folder: Path, **settings: object) -> Iterator[Service]:
    """The service as two workers, an engine and what supervises them."""
    with launched(SEVERAL, folder, **{"workers": 2, "sessions": 8, **settings}) as (process, banner):
        yield Service(process, banner[0].split()[3], folder / "log")


def fails_to_start(folder: Path, **settings: object) -> tuple[int, str]:
    completed = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS],
        env=environment(folder, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert completed.stdout == ""
    assert "Traceback" not in completed.stderr
    return completed.returncode, completed.stderr


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """Variables of a program that serves; it finds the runtimes of the tests."""
    chosen = {"weights": folder / "weights", "var": folder / "var", "port": 0, "sessions": 1, **settings}
    variables = {f"ATSNET_{name.upper()}": str(value) for name, value in chosen.items()}
    found = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, **variables, "PYTHONPATH": found}


class Load:
    """Clients that post one part after the other, and what they were answered."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self.answered: list[dict[str, Any]] = []
        self.outcomes: Counter[tuple[int, int] | str] = Counter()
        self.longest_s = 0.0
        self._service = service
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=[number]) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _post(self, number: int) -> None:
        trigger = 0
        while not self._enough.is_set():
            trigger += 1
            began = time.monotonic()
            try:
                response = self._service.post(DEFECTIVE, {"station": f"s{number}", "serial": "A", "trigger": trigger})
            except httpx.TransportError:
                self.outcomes["connection"] += 1
            else:
                document = response.json()
                self.outcomes[response.status_code, document["code"]] += 1
                assert (document["result"] in {0, 3}) == (response.status_code != 200)
                if response.status_code == 200:
                    self.answered.append(document)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            time.sleep(0.005)
