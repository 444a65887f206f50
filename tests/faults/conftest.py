"""Short forms run with all other tests; `make test-faults` asks for the long ones, which take a quarter of an hour."""

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from stations import Station, Tell

from benchmarks.tiny_bundle import write_tiny_bundle

T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--long", action="store_true", default=False, help="the long form of every test of faults")
    group.addoption("--seed", type=int, default=None, help="seed of everything random in them; by default 1")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long form."""
    # Not an option where the command line names another folder: this file is read too late then.
    return bool(request.config.getoption("--long", default=False))


@pytest.fixture
def chosen(long: bool) -> Callable[[T, T], T]:
    """The first where the form is short, the second where it is long."""
    return lambda short_form, long_form: long_form if long else short_form


@pytest.fixture
def tell() -> Tell:
    """Says what came out; `make test-faults` shows it."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    return logging.getLogger("faults").info


@pytest.fixture
def seed(request: pytest.FixtureRequest, tell: Tell) -> int:
    given = request.config.getoption("--seed", default=None)
    seed = 1 if given is None else int(given)
    tell(f"seed: {seed}")
    return seed


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = tmp_path_factory.mktemp("weights")
    write_tiny_bundle(weights)
    return weights


@pytest.fixture
def station(tmp_path: Path, tiny_weights: Path) -> Iterator[Station]:
    """A service that is not started yet; nothing of it is left afterwards."""
    station = Station(tmp_path, tiny_weights)
    try:
        yield station
    finally:
        station.end()
