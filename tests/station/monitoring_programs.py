"""Prometheus and Alertmanager of two releases of Debian, run on this machine without Docker."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import yaml
from debian_packages import RELEASE, Debian
from station_images import CACHE, PACKAGES, REPOSITORY

MONITORING = REPOSITORY / "docker"
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Programs:
    """The programs of one release, by their paths."""

    prometheus: str
    promtool: str
    alertmanager: str
    amtool: str


def programs(release: str) -> Programs:
    """Those of this machine's own release, installed if need be, or of a newer one, unpacked in the cache.

    Raises:
        MissingError: They cannot be had.
    """
    debian = Debian(CACHE)
    if release == RELEASE:
        debian.install("prometheus", "prometheus-alertmanager")
        folder = "/usr/bin"
    else:
        debian.unpack(PACKAGES, CACHE / "monitoring")
        folder = str(CACHE / "monitoring" / "usr" / "bin")
    names = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")
    return Programs(*(shutil.which(name, path=folder) or name for name in names))


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """What an expression says now; numbers that are none (NaN) are left out."""
        found = self._get("query", query=expression)["result"]
        return [one for one in found if one["value"][1] != "NaN"]

    def examples(self, selector: str) -> list[dict[str, Any]]:
        """The exemplars of series in the last ten minutes."""
        now = time.time()
        found = self._get("query_exemplars", query=selector, start=str(now - 600), end=str(now))
        return [example for series in found for example in series["exemplars"]]

    def _get(self, what: str, **asked: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{what}?{urlencode(asked)}", timeout=30).json()
        assert answer["status"] == "success", (asked, answer)
        return answer["data"]


@contextmanager
def running(command: list[str], log: Path, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the block, once an address answers."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _PATIENCE_S
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{command}: {log.read_text()[-4000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def write_configuration(folder: Path, targets: dict[str, int], rules: Path) -> Path:
    """Prometheus's committed configuration for this machine: every second, local ports, no key; returns its file."""
    configuration = yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(rules / "*.yml")]
    scraped = configuration["scrape_configs"]
    for part in (*scraped, *configuration["alerting"]["alertmanagers"]):
        part.pop("authorization", None)
        for static in part["static_configs"]:
            static["targets"] = [f"127.0.0.1:{targets[target]}" for target in static["targets"]]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    return file


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False
