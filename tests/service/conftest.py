from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Server, serving_postgres
from serving import Line, running, write_bundle

from model_export.bundle import Bundle, load_bundle
from service.runtimes.fake import FakeRuntime
from service.settings import Settings


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def bundle(weights: Path) -> Bundle:
    return load_bundle(weights / "tec-grain-demo" / "1")


@pytest.fixture
def settings(weights: Path, tmp_path: Path) -> Settings:
    # A small disk of the machine is no concern of the tests.
    return Settings(weights=weights, var=tmp_path / "var", sessions=1, port=0, archive_min_free_bytes=0)


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    runtime = FakeRuntime()
    yield runtime
    runtime.release()


@pytest.fixture(params=[False, True], ids=["one process", "worker and engine"])
def apart(request: pytest.FixtureRequest) -> bool:
    """What is true of the service is true in both of its forms."""
    return bool(request.param)


@pytest.fixture
def line(settings: Settings, runtime: FakeRuntime, apart: bool) -> Iterator[Line]:
    with running(settings, runtime, apart=apart) as line:
        yield line


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with serving_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What is true of the records is true in both databases; the URL of an empty one."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.sqlite3"
    server: Server = request.getfixturevalue("postgres")
    return server.new_database()
