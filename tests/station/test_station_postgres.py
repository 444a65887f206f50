"""The station with its records in PostgreSQL, as .env.example says."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_station import RunningStation
from station_images import REPOSITORY, clone

from service.client import InspectionClient

pytestmark = [pytest.mark.station, pytest.mark.timeout(900)]

SAMPLES = sorted((REPOSITORY / "weights/tec-grain-demo/1/samples").glob("*.png"))


@pytest.fixture
def station(built: RunningStation, tmp_path: Path) -> Iterator[RunningStation]:
    fresh = built.another("postgres", clone(tmp_path / "station"))
    example = (fresh.clone / ".env.example").read_text()
    wanted = re.findall(r"^#((?:COMPOSE_PROFILES|ATSNET_DATABASE_URL)=.*)$", example, re.MULTILINE)
    (fresh.clone / ".env").write_text("\n".join(wanted))
    yield fresh
    fresh.remove()


def counted(station: RunningStation) -> int:
    psql = "PGPASSWORD=$(cat /run/station/postgres/password) psql --no-align --tuples-only --host 127.0.0.1 -U atsnet"
    query = f"{psql} --command 'SELECT count(*) FROM inspections'"
    return int(station.compose("exec", "-T", "postgres", "sh", "-c", query))


def test_records_are_in_postgresql_and_outlive_down(station: RunningStation) -> None:
    station.up()
    with InspectionClient(station.url, api_key=station.new_key("press-3", "line")) as client:
        verdicts = [client.inspect(sample.read_bytes(), serial=sample.stem) for sample in SAMPLES]
    assert counted(station) == len(SAMPLES)

    station.down()
    station.up()

    assert counted(station) == len(SAMPLES)
    with InspectionClient(station.url, api_key=station.new_key("press-3", "line")) as client:
        assert [client.record(verdict.id).verdict for verdict in verdicts] == [one.verdict for one in verdicts]
    assert station.compose("exec", "-T", "inspection", "ls", "/var/lib/atsnet").split() == ["archive"]
