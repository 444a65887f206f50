"""The station on a real Docker engine: started, used, stopped, and started again with what it had recorded.

The tests of this file are one story and run in its order.
"""

import json
import logging
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from debian_packages import run
from running_station import SERVICES, RunningStation, eventually
from station_images import REPOSITORY

from service.client import InspectionClient, NotAllowedError, Verdict

pytestmark = [pytest.mark.station, pytest.mark.timeout(900)]

PARTS = 500
RATE = "20/s"
SAMPLE = REPOSITORY / "weights/tec-grain-demo/1/samples/crack_0.png"

log = logging.getLogger("station")


@pytest.fixture(scope="module")
def line_key(station: RunningStation) -> str:
    return station.new_key("press-3", "line")


@pytest.fixture(scope="module")
def operator_key(station: RunningStation) -> str:
    return station.new_key("mes", "operator")


def post(client: InspectionClient) -> Verdict:
    return client.inspect(SAMPLE.read_bytes(), station="press-3", serial="P00001", trigger=1)


def test_without_a_key_nobody_inspects(station: RunningStation) -> None:
    with InspectionClient(station.url) as client, pytest.raises(NotAllowedError):
        post(client)


def test_parts_are_inspected_through_the_published_port(station: RunningStation, line_key: str) -> None:
    line = (
        Path(sys.executable).with_name("atsnet"), "simulate-line", "--url", station.url, "--api-key", line_key,
        "--stations", "3", "--rate", RATE, "--count", str(PARTS), "--json",
    )  # fmt: skip
    summary = json.loads(run(*line))

    verdicts = [one["verdicts"] for one in summary["stations"].values()]
    total = {verdict: sum(one[verdict] for one in verdicts) for verdict in verdicts[0]}
    log.info("%d parts at %s through the published port: %s", PARTS, RATE, total)
    assert summary["posted"] == PARTS
    assert total["none"] == 0
    assert sum(total.values()) == PARTS
    assert total["pass"] > 0
    assert total["fail"] > 0


def test_prometheus_has_their_series(station: RunningStation) -> None:
    def counted() -> float:
        found = station.metric("sum(inspect_verdicts_total)")
        return float(found[0]["value"][1]) if found else 0

    assert eventually(lambda: counted() >= PARTS)
    assert counted() == PARTS
    assert {series["metric"]["job"] for series in station.metric("up == 1")} == {"atsnet", "alertmanager", "prometheus"}


def test_metrics_are_not_for_everybody(station: RunningStation) -> None:
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{station.url}/metrics", timeout=30)


def test_containers_may_do_little(station: RunningStation) -> None:
    for service in SERVICES:
        container = station.inspect(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert container["Config"]["User"] not in {"", "0", "root"}
        addresses = {binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings}
        assert addresses == {"127.0.0.1"}


def test_only_its_own_folders_can_be_written(station: RunningStation) -> None:
    def writable(folder: str) -> bool:
        script = f"touch {folder}/x 2>/dev/null && rm {folder}/x && echo yes || echo no"
        return station.compose("exec", "-T", "inspection", "sh", "-c", script).strip() == "yes"

    assert {folder for folder in ("/var/lib/atsnet", "/var/cache/atsnet", "/tmp") if not writable(folder)} == set()
    closed = ("/srv/atsnet", "/srv/atsnet/weights", "/opt/atsnet", "/run/station/keys", "/etc", "/var/lib", "/usr")
    assert {folder for folder in closed if writable(folder)} == set()


def test_an_alert_arrives_and_verdicts_outlive_a_kill(
    station: RunningStation, line_key: str, operator_key: str
) -> None:
    before = station.records(operator_key)
    with InspectionClient(station.url, api_key=line_key) as client:
        verdict = post(client)
    station.compose("kill", "inspection")

    names = eventually(lambda: {alert["labels"]["alertname"] for alert in station.alerts()} & {"ServiceDown"}, 300)

    assert names == {"ServiceDown"}
    log.info("Alertmanager has ServiceDown")
    log.info("healthy after %.1f s, since it had been killed", station.up())
    assert len(station.records(operator_key)) == len(before) + 1
    with InspectionClient(station.url, api_key=line_key) as client:
        again = post(client)
    assert again.replayed
    assert (again.id, again.verdict, again.score) == (verdict.id, verdict.verdict, verdict.score)


def test_down_is_clean_and_verdicts_outlive_it(station: RunningStation, operator_key: str) -> None:
    before = station.records(operator_key)

    log.info("stopped after %.1f s", station.stop())
    assert {name: station.inspect(name)["State"]["ExitCode"] for name in SERVICES} == dict.fromkeys(SERVICES, 0)
    log.info("down after %.1f s", station.down())
    log.info("healthy after %.1f s, with what it had recorded", station.up())

    assert len(before) == 1 + PARTS + 1  # the heading, the line's parts and one of ours
    assert station.records(operator_key) == before
