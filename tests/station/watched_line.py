"""The real service under a simulated line, with a real Prometheus of each release and a real Alertmanager.

It is asked for a GPU that is not there, and may do without; its engine is killed, it is overloaded, deadlines pass and
another version of the recipe takes over: so that everything that can be counted is. GPUs are played by names.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
from debian_packages import NEWER, RELEASE
from monitoring_programs import MONITORING, Prometheus, programs, running, write_configuration
from running_station import eventually, free_ports
from station_images import REPOSITORY

from service.client import InspectionClient

RECIPE = "tec-grain"
SHORTER = 20
"""Times in rules are this much shorter, so that hours fit into minutes."""

_ATSNET = [sys.executable, "-c", "from cli.main import main; main()"]
_BUNDLE = REPOSITORY / "weights" / "tec-grain-demo" / "1"
_SETTINGS = {"RUNTIME": "cuda", "ALLOW_CPU": "true", "WORKERS": "2", "QUEUE_SIZE": "8", "HOST": "127.0.0.1"}
_MILLISECONDS = {"s": 1000, "m": 60_000, "h": 3_600_000}


@dataclass(frozen=True)
class WatchedLine:
    """What runs."""

    service: str
    prometheus: Mapping[str, Prometheus]
    """By Debian's release."""
    alerts: Mapping[str, Mapping[str, Any]]
    """What Alertmanager has received so far, by name, also what is over."""


@contextmanager
def watched_line(folder: Path) -> Iterator[WatchedLine]:
    """All of it, for the block; everything has happened once by then, and parts go on to come."""
    port, gpu, alertmanager, *prometheus = free_ports(5)
    rules = folder / "rules"
    rules.mkdir()
    for path in (MONITORING / "prometheus" / "rules").glob("*.yml"):
        (rules / path.name).write_text(shortened(path.read_text()))
    os.environ.update({f"ATSNET_{name}": value for name, value in _SETTINGS.items()})
    os.environ.update(ATSNET_PORT=str(port), ATSNET_VAR=str(folder / "var"), ATSNET_WEIGHTS=str(_BUNDLE.parents[1]))
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        for name in [name for name in os.environ if name.startswith("ATSNET_")]:
            stack.callback(os.environ.pop, name)
        stack.enter_context(_gpu_exporter(gpu))
        log = folder / "service.log"
        stack.enter_context(running([*_ATSNET, "serve"], log, f"{url}/readyz"))
        newer = programs(NEWER)
        command = [
            newer.alertmanager,
            f"--config.file={MONITORING / 'alertmanager' / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{alertmanager}",
            "--cluster.listen-address=",
        ]
        ready = f"http://127.0.0.1:{alertmanager}/-/ready"
        stack.enter_context(running(command, folder / "alertmanager.log", ready))
        watching = {}
        for release, own in zip((RELEASE, NEWER), prometheus, strict=True):
            home = folder / release
            home.mkdir()
            targets = {
                "inspection:8000": port,
                "dcgm-exporter:9400": gpu,
                "localhost:9090": own,
                "alertmanager:9093": alertmanager,
            }
            command = [
                programs(release).prometheus,
                f"--config.file={write_configuration(home, targets, rules)}",
                f"--storage.tsdb.path={home / 'data'}",
                f"--web.listen-address=127.0.0.1:{own}",
                "--enable-feature=exemplar-storage",
            ]
            watching[release] = Prometheus(f"http://127.0.0.1:{own}")
            stack.enter_context(running(command, home / "log", f"{watching[release].url}/-/ready"))
        alerts = stack.enter_context(_arriving(f"http://127.0.0.1:{alertmanager}"))
        stack.enter_context(_line(url, folder / "line.log"))
        _make_everything_happen(url, log)
        yield WatchedLine(url, watching, alerts)


def shortened(rules: str) -> str:
    """Rules with all times a twentieth as long."""

    def shorter(found: re.Match[str]) -> str:
        before, count, unit, after = found.groups()
        return f"{before}{int(count) * _MILLISECONDS[unit] // SHORTER}ms{after}"

    return re.sub(r"(\[|offset |for: )(\d+)([smh])(\b)", shorter, rules)


@contextmanager
def _arriving(alertmanager: str) -> Iterator[dict[str, Mapping[str, Any]]]:
    alerts: dict[str, Mapping[str, Any]] = {}
    over = threading.Event()

    def look() -> None:
        with httpx.Client() as client:
            while not over.wait(0.5):
                found = client.get(f"{alertmanager}/api/v2/alerts").json()
                alerts.update({alert["labels"]["alertname"]: alert for alert in found})

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield alerts
    finally:
        over.set()
        looking.join()


@contextmanager
def _line(url: str, log: Path) -> Iterator[None]:
    options = {"url": url, "rate": "8/s", "stations": "2", "burst": "4", "defective": "0.2", "repeat": "0.1"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_ATSNET, "simulate-line", "--json", *words], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield
        assert process.poll() is None, log.read_text()[-4000:]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _make_everything_happen(url: str, log: Path) -> None:
    image = max(_BUNDLE.glob("**/*.png"), key=lambda path: path.stat().st_size).read_bytes()

    def post(**fields: str) -> int:
        return httpx.post(
            f"{url}/v1/inspections", content=image, params={"station": "s9", **fields}, timeout=60
        ).status_code

    with InspectionClient(url) as client, ThreadPoolExecutor(120) as clients:
        first = eventually(lambda: list(client.inspections(limit=1, verdict="fail")))
        assert first, "the line has no reject"
        waiting = [clients.submit(post) for _ in range(30)]
        os.kill(_pid_of_engine(log), signal.SIGKILL)
        statuses = {one.result() for one in waiting}
        assert 500 in statuses, statuses
        client.wait_until_ready(60)
        assert 429 in set(clients.map(lambda _: post(), range(120)))
        assert 504 in set(clients.map(lambda _: post(deadline_ms="1"), range(5)))
        version = client.recipes.create(RECIPE, review_from=0.8)
        client.recipes.activate(RECIPE, version.version)


def _pid_of_engine(log: Path) -> int:
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return next(
        int(line["pid"]) for line in lines if line.get("event") == "process_started" and line["name"] == "engine"
    )


@contextmanager
def _gpu_exporter(port: int) -> Iterator[None]:
    """Figures by the names that dcgm-exporter gives them, of a GPU that is not there."""
    with (REPOSITORY / "docker" / "dcgm-counters.csv").open() as file:
        counters = [row[:2] for row in csv.reader(file) if row and not row[0].startswith("#")]
    text = "".join(f'# TYPE {name} {kind.strip()}\n{name}{{gpu="0"}} 37\n' for name, kind in counters)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()
