"""A service as a line has it: processes of its own, killed and started again, looked at from outside."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from benchmarks import tiny_bundle
from benchmarks.processes import descendants, running_processes

PROGRAM: Final = """
import sys
from census import report_on_signal
report_on_signal()
from service.server import serve
from service.settings import load_settings
sys.exit(serve(load_settings(), {runtime}))
"""
"""What is started: the command's own way, but it can be asked for its tasks, and its runtime can be slowed."""

Tell = Callable[[str], object]
"""Takes a line about what came out."""

START_S: Final = 60.0
PATIENCE_S: Final = 120.0
"""No answer takes this long; only the end of a hopeless wait."""
_LONGEST_TURN_S: Final = 1.0


class Station:
    """One service on one port, with its folder.

    Args:
        folder: Where its log and, by default, its records are.
        weights: With the bundle `tiny/1`.
    """

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder = folder
        self.var = folder / "var"
        self.log = folder / "log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings: dict[str, object] = {"weights": weights, "bundle": tiny_bundle.NAME, "workers": 1, "sessions": 2}
        self.environment: dict[str, str] = {}
        self.slow = False
        """Whether a frame takes 20 ms, see `slow_runtime`."""
        self.piped = False
        """Whether its log goes through a pipe, and so is not written by its own processes."""
        self._process: subprocess.Popen[bytes] | None = None
        self._copying: subprocess.Popen[bytes] | None = None
        self._everyone: set[int] = set()

    @property
    def samples(self) -> list[bytes]:
        """Images: good ones and defective ones."""
        folder = Path(str(self.settings["weights"])) / tiny_bundle.NAME / "samples"
        return [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it without waiting for anything."""
        several = int(str(self.settings["workers"])) > 1
        runtime = ""
        if self.slow:
            runtime = 'engine_runtime="slow_runtime:make"' if several else '__import__("slow_runtime").SlowRuntime(2)'
        settings = {"host": "127.0.0.1", "port": self.port, "var": self.var, **self.settings}
        variables = {f"ATSNET_{name.upper()}": str(value) for name, value in settings.items()}
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(runtime=runtime)],
                env={**os.environ, "PYTHONPATH": path, "CENSUS": str(self.folder), **variables, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.piped else log,
                stderr=subprocess.STDOUT,
            )
            if self.piped:
                self._copying = subprocess.Popen(["cat"], stdin=self._process.stdout, stdout=log)
        return self._process

    def start(self) -> None:
        """Start it and wait until it is ready; again and again where another one still holds the port.

        That one may still say that it is ready: what counts is that the one started here says where it listens.
        """
        patience = Patience(START_S)
        before = self._announcements()
        process = self.launch()
        while self._announcements() == before or not self.ready():
            patience.check(self.tail)
            if process.poll() is not None:
                assert process.returncode == 6, f"exit code {process.returncode}: {self.tail()}"
                process = self.launch()
            time.sleep(0.02)
        self._everyone |= self.pids()

    def _announcements(self) -> int:
        return self.log.read_bytes().count(b"ATS-Net inspects at") if self.log.exists() else 0

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        assert self._process is not None
        return self._process.pid

    def pids(self) -> set[int]:
        """Of all that it started as well."""
        return descendants(running_processes(), self.pid)

    def pid_of(self, name: str) -> int:
        """Of the newest process of that name in the log."""
        return int(next(line["pid"] for line in reversed(self.events("process_started")) if line["name"] == name))

    def kill(self, pid: int) -> None:
        """Kill -9 of one of its processes."""
        self._everyone |= self.pids()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if pid == self.pid:
            assert self._process is not None
            self._process.wait()

    def stop(self, told: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop; its exit code."""
        assert self._process is not None
        self._everyone |= self.pids()
        self._process.send_signal(told)
        return self._process.wait(START_S)

    def end(self) -> None:
        """Leave nothing of it behind."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._everyone |= self.pids()
            self._process.kill()
            self._process.wait()
        for pid in self._everyone & set(running_processes()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._copying is not None:
            assert self._process.stdout is not None
            self._copying.wait()
            self._process.stdout.close()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """On a connection of its own."""
        return httpx.get(self.url + path, timeout=PATIENCE_S, trust_env=False, **options)

    def post(self, image: bytes, *, patience_s: float = PATIENCE_S, **fields: object) -> httpx.Response:
        """Inspect an image, on a connection of its own."""
        query = {name: str(value) for name, value in fields.items()}
        url = f"{self.url}/v1/inspections"
        return httpx.post(url, content=image, params=query, timeout=patience_s, trust_env=False)

    def ready(self) -> bool:
        """Whether it says so."""
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def metric(self, sample: str) -> float:
        """Value of a sample, 0 where there is none."""
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return 0.0 if found is None else float(found[1])

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event of its log, oldest first."""
        needle = f'"event":"{event}"'.encode()
        lines = self.log.read_bytes().rpartition(b"\n")[0].splitlines()
        return [orjson.loads(line) for line in lines if line.startswith(b"{") and needle in line]

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Of its database, whether it runs or not."""
        with closing(sqlite3.connect(self.var / "records.sqlite3", timeout=30)) as database:
            return database.execute(statement).fetchall()

    def census(self, pid: int | None = None) -> dict[str, int]:
        """Tasks of the event loop of a process, and its bytes of memory."""
        asked = self.pid if pid is None else pid
        answer = self.folder / f"census-{asked}"
        answer.unlink(missing_ok=True)
        os.kill(asked, signal.SIGUSR2)
        wait_until(answer.exists)
        found: dict[str, int] = orjson.loads(answer.read_bytes())
        return found

    def open_in(self, pid: int) -> dict[str, int]:
        """Descriptors and threads of one of its processes."""
        return {
            name: len(list(Path(f"/proc/{pid}", folder).iterdir()))
            for name, folder in (("descriptors", "fd"), ("threads", "task"))
        }

    def rss_bytes(self) -> int:
        """Resident memory of all its processes; what they share is counted for each."""
        running = running_processes()
        return sum(running[pid].rss_bytes for pid in self.pids() if pid in running)


def free_port() -> int:
    """A port that nobody listens on; the same one for every start of a service."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Patience:
    """Ends hopeless waits; time in which this process itself did not run does not count.

    Args:
        limit_s: How long it lasts.
    """

    def __init__(self, limit_s: float) -> None:
        self._left_s = limit_s
        self._looked = time.monotonic()

    def check(self, why: Callable[[], str] = lambda: "") -> None:
        """Fail once there is none left."""
        now = time.monotonic()
        self._left_s -= min(now - self._looked, _LONGEST_TURN_S)
        self._looked = now
        assert self._left_s > 0, f"it never came to pass {why()}"


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for what must come to pass sooner or later; the limit only ends a hopeless wait."""
    patience = Patience(timeout_s)
    while not condition():
        patience.check()
        time.sleep(0.01)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are not above."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
