"""The station of the tests: the compose file of the repository, on the CPU, with images of the tests."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote
from urllib.request import urlopen

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
    """

    def __init__(self, docker: Docker, settings: dict[str, str]) -> None:
        self.docker = docker
        self.port, self.prometheus_port, self.alertmanager_port = free_ports(3)
        self._settings = {
            "COMPOSE_PROJECT_NAME": NAME,
            "COMPOSE_FILE": f"{REPOSITORY}/docker-compose.yml:{REPOSITORY}/docker/compose.cpu.yml",
            "COMPOSE_ENV_FILES": "/dev/null",
            "STATION_IMAGE": f"{NAME}/station",
            "STATION_PORT": str(self.port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "ALERTMANAGER_PORT": str(self.alertmanager_port),
            "PROMETHEUS_IMAGE": STAND_INS["prometheus"],
            "ALERTMANAGER_IMAGE": STAND_INS["alertmanager"],
            **settings,
        }

    @property
    def url(self) -> str:
        """Where the published port of the service is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def image(self) -> str:
        """The image of the service."""
        return str(self._configuration()["services"]["inspection"]["image"])

    def compose(self, *words: str) -> str:
        """Run `docker compose WORDS`."""
        return self.docker("compose", "--project-directory", REPOSITORY, *words, variables=self._settings)

    def up(self) -> float:
        """Start it, and wait until it is healthy: seconds that took. The limit is compose's own."""
        start = time.monotonic()
        try:
            self.compose("up", "--no-build", "--detach", "--wait", "--wait-timeout", str(HEALTHY_WITHIN_S), *SERVICES)
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
        return self.compose("run", "--rm", "--no-deps", "keys", "new", "--name", name, "--role", role).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker says of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        return dict(json.loads(self.docker("inspect", container))[0])

    def metric(self, expression: str) -> list[Any]:
        """What Prometheus answers to an expression now."""
        answer = self._ask(self.prometheus_port, f"/api/v1/query?query={quote(expression)}")
        return list(answer["data"]["result"])

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that Alertmanager has."""
        return list(self._ask(self.alertmanager_port, "/api/v2/alerts"))

    def _configuration(self) -> dict[str, Any]:
        return dict(json.loads(self.compose("config", "--format", "json")))

    def _ask(self, port: int, path: str) -> Any:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return json.load(answer)


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
