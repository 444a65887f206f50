"""The station on a real Docker engine: started, used, stopped, and started again with what it had recorded.

The tests of this file are one story and run in its order.
"""

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import cv2
import pytest
from running_station import RunningStation, eventually

from atsnet.data.grains import DEFECTS, render_grain
from service.client import InspectionClient, NotAllowedError, Verdict

pytestmark = [pytest.mark.station, pytest.mark.timeout(900)]

PARTS = 500
PICTURES = 20
"""Drawn ahead; parts share them and have serial numbers of their own."""
AT_ONCE = 4

log = logging.getLogger("station")


@pytest.fixture(scope="module")
def line_key(station: RunningStation) -> str:
    return station.new_key("press-3", "line")


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    kinds = [None, *DEFECTS]
    grains = [render_grain(7, kinds[index % len(kinds)], 256, index=index) for index in range(PICTURES)]
    return [cv2.imencode(".png", grain.image)[1].tobytes() for grain in grains]


@pytest.fixture(scope="module")
def answered() -> dict[str, Verdict]:
    """Verdicts by serial number, as they were answered."""
    return {}


def post(client: InspectionClient, picture: bytes, part: int) -> Verdict:
    return client.inspect(picture, station=f"press-{part % 3}", serial=f"P{part:05}", trigger=part)


def test_without_a_key_nobody_inspects(station: RunningStation, pictures: list[bytes]) -> None:
    with InspectionClient(station.url) as client, pytest.raises(NotAllowedError):
        post(client, pictures[0], 0)


def test_parts_are_inspected_through_the_published_port(
    station: RunningStation, line_key: str, pictures: list[bytes], answered: dict[str, Verdict]
) -> None:
    with InspectionClient(station.url, api_key=line_key) as client, ThreadPoolExecutor(AT_ONCE) as threads:
        verdicts = list(threads.map(lambda part: post(client, pictures[part % PICTURES], part), range(PARTS)))

    answered.update({str(verdict.serial): verdict for verdict in verdicts})
    log.info("%d parts: %s", PARTS, dict(Counter(verdict.verdict for verdict in verdicts)))
    assert len({verdict.id for verdict in verdicts}) == PARTS
    assert {"pass", "fail"} <= {verdict.verdict for verdict in verdicts}


def test_prometheus_has_their_series(station: RunningStation) -> None:
    def counted() -> float:
        found = station.metric("sum(inspect_verdicts_total)")
        return float(found[0]["value"][1]) if found else 0

    assert eventually(lambda: counted() >= PARTS)
    assert counted() == PARTS
    assert {series["metric"]["job"] for series in station.metric("up == 1")} >= {"atsnet", "alertmanager", "prometheus"}


def test_metrics_are_not_for_everybody(station: RunningStation) -> None:
    with pytest.raises(HTTPError, match="401"):
        urlopen(Request(f"{station.url}/metrics"), timeout=30)


def test_containers_may_do_little(station: RunningStation) -> None:
    for service in ("inspection", "prometheus", "alertmanager"):
        container = station.inspect(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["LogConfig"]["Config"]["max-size"] == "10m"
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


def test_an_alert_arrives(station: RunningStation) -> None:
    station.compose("kill", "inspection")

    names = eventually(lambda: {alert["labels"]["alertname"] for alert in station.alerts()} & {"ServiceDown"}, 300)

    assert names == {"ServiceDown"}
    log.info("Alertmanager has ServiceDown")


def test_down_is_clean_and_up_again_has_the_verdicts(
    station: RunningStation, line_key: str, pictures: list[bytes], answered: dict[str, Verdict]
) -> None:
    log.info("healthy after %.1f s, since it had been killed", station.up())
    log.info("stopped after %.1f s", station.stop())
    ends = {name: station.inspect(name)["State"]["ExitCode"] for name in ("inspection", "prometheus", "alertmanager")}
    assert ends == {"inspection": 0, "prometheus": 0, "alertmanager": 0}
    log.info("down after %.1f s", station.down())

    log.info("healthy after %.1f s, with what it had recorded", station.up())

    operator = station.new_key("mes", "operator")
    with InspectionClient(station.url, api_key=line_key) as client:
        for part in range(0, PARTS, 50):
            before = answered[f"P{part:05}"]
            record = client.record(before.id)
            assert (record.verdict, record.score, record.serial) == (before.verdict, before.score, before.serial)
            again = post(client, pictures[part % PICTURES], part)
            assert again.replayed
            assert (again.id, again.verdict, again.score) == (before.id, before.verdict, before.score)
    request = Request(
        f"{station.url}/v1/inspections", headers={"Authorization": f"Bearer {operator}", "Accept": "text/csv"}
    )
    with urlopen(request, timeout=60) as listed:
        assert len(listed.read().splitlines()) == PARTS + 1
