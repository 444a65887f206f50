"""The station of the tests: the compose files of the repository, on the CPU, with images of the tests."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from urllib.request import Request, urlopen

from docker_engine import Docker
from station_images import NAME, REPOSITORY, STAND_INS

SERVICES = ("inspection", "prometheus", "alertmanager")
"""Those that run here; Grafana's and NVIDIA's images come from registries alone."""
HEALTHY_WITHIN_S = 60
DOWN_WITHIN_S = 10

T = TypeVar("T")


class RunningStation:
    """One station, by `docker compose`.

    Args:
        docker: The engine.
        settings: Variables of the compose file, beside those of the tests.
        name: Of the compose project.
        clone: The repository, or a copy of it whose `.env` counts.
    """

    def __init__(self, docker: Docker, settings: dict[str, str], name: str = NAME, clone: Path = REPOSITORY) -> None:
        self.docker = docker
        self.clone = clone
        self.port, self.prometheus_port, self.alertmanager_port = free_ports(3)
        files = ("docker-compose.yml", "docker/compose.cpu.yml", "tests/station/compose.here.yml")
        self.settings = {
            "COMPOSE_PROJECT_NAME": name,
            "COMPOSE_FILE": ":".join(str(clone / file) for file in files),
            "COMPOSE_ENV_FILES": "/dev/null" if clone == REPOSITORY else str(clone / ".env"),
            "STATION_IMAGE": f"{NAME}/station",
            "STATION_PORT": str(self.port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "ALERTMANAGER_PORT": str(self.alertmanager_port),
            "PROMETHEUS_IMAGE": STAND_INS["prometheus"],
            "ALERTMANAGER_IMAGE": STAND_INS["alertmanager"],
            "POSTGRES_IMAGE": STAND_INS["postgres"],
            **settings,
        }

    @property
    def url(self) -> str:
        """Where the published port of the service is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def image(self) -> str:
        """The image of the service."""
        return str(json.loads(self.compose("config", "--format", "json"))["services"]["inspection"]["image"])

    def compose(self, *words: str) -> str:
        """Run `docker compose WORDS`."""
        return self.docker("compose", "--project-directory", self.clone, *words, variables=self.settings)

    def up(self) -> float:
        """Start it, and wait until it is healthy: seconds that took. The limit is compose's own."""
        start = time.monotonic()
        try:
            self.compose("up", "--no-build", "--detach", "--wait", "--wait-timeout", str(HEALTHY_WITHIN_S))
        except AssertionError as error:
            error.add_note(self.compose("logs", "--no-color", "--tail", "40"))
            raise
        return time.monotonic() - start

    def stop(self) -> float:
        """Stop it: seconds that took. What has not ended by the limit is killed, and has another exit code than 0."""
        start = time.monotonic()
        self.compose("stop", "--timeout", str(DOWN_WITHIN_S))
        return time.monotonic() - start

    def down(self) -> float:
        """Stop it and remove its containers; volumes stay. Seconds that took."""
        start = time.monotonic()
        self.compose("down", "--timeout", str(DOWN_WITHIN_S))
        return time.monotonic() - start

    def remove(self) -> None:
        """Remove everything of it, volumes too."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "1")

    def new_key(self, name: str, role: str) -> str:
        """Make an API key, as docs/station.md says."""
        return self.compose("run", "--rm", "keys", "new", "--name", name, "--role", role).strip()

    def another(self, name: str, clone: Path) -> "RunningStation":
        """A station of the same images from a copy of the repository, not yet started."""
        building = ("CPU_BASE", "STATION_PIP", "STATION_WHEELS")
        same = {variable: value for variable, value in self.settings.items() if variable.startswith(building)}
        return RunningStation(self.docker, same, f"{NAME}-{name}", clone)

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker says of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        return dict(json.loads(self.docker("inspect", container))[0])

    def records(self, key: str) -> list[str]:
        """Every record as a line of CSV, the heading first."""
        headers = {"Authorization": f"Bearer {key}", "Accept": "text/csv"}
        with urlopen(Request(f"{self.url}/v1/inspections", headers=headers), timeout=60) as answer:
            return list(answer.read().decode().splitlines())

    def metric(self, expression: str) -> list[Any]:
        """What Prometheus answers to an expression now."""
        return list(_ask(self.prometheus_port, f"/api/v1/query?query={quote(expression)}")["data"]["result"])

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that Alertmanager has."""
        return list(_ask(self.alertmanager_port, "/api/v2/alerts"))


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def eventually(ask: Callable[[], T], patience_s: float = 120) -> T:
    """The first answer that is something; the last one when patience is over."""
    end = time.monotonic() + patience_s
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(0.5)
    return answer


def _ask(port: int, path: str) -> Any:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.load(answer)
