"""What the tests of the station's files share; they need no Docker."""

import tomllib
from typing import Any

import pytest
from station_files import DOCKER, REPOSITORY, read_compose


@pytest.fixture(scope="session")
def dockerfile() -> str:
    return (DOCKER / "Dockerfile").read_text()


@pytest.fixture(scope="session")
def compose() -> Any:
    return read_compose(REPOSITORY / "docker-compose.yml")


@pytest.fixture(scope="session")
def pins() -> dict[str, str]:
    """Every version of constraints.txt, by name."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.fixture(scope="session")
def version() -> str:
    """The project's."""
    return str(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"])
