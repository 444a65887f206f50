"""What the station's tests share; `make test-station` runs them. What is missing makes them fail: none is skipped."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_packages import Debian
from docker_engine import Docker, docker_engine
from running_station import RunningStation
from station_images import CACHE, make_base, make_stand_ins, pip_secrets

log = logging.getLogger("station")


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A Docker engine."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    with docker_engine(CACHE) as engine:
        log.info("Docker %s", engine("version", "--format", "{{.Server.Version}}").strip())
        yield engine


@pytest.fixture(scope="session")
def base(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image."""
    return make_base(docker, Debian(CACHE), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def built(docker: Docker, base: str, tmp_path_factory: pytest.TempPathFactory) -> RunningStation:
    """The station with its images built, not yet started."""
    folder: Path = tmp_path_factory.mktemp("station")
    station = RunningStation(docker, {"CPU_BASE": base, **pip_secrets(folder)})
    station.compose("build", "inspection")
    make_stand_ins(docker, Debian(CACHE), CACHE)
    log.info("not run, since no registry has them here: grafana, dcgm-exporter")
    return station


@pytest.fixture(scope="session")
def station(built: RunningStation) -> Iterator[RunningStation]:
    """The station, started for the first time and healthy."""
    built.remove()
    try:
        log.info("healthy after %.1f s at the first start", built.up())
        yield built
    finally:
        print(built.compose("logs", "--no-color", "inspection"))  # noqa: T201  # shown where a test fails
        built.remove()
