"""The compose file, by reading it: nothing is unpinned, unbounded or open to the network, and nothing needs an edit."""

import csv
import re
from typing import Any

import pytest
from station_files import DOCKER, REPOSITORY, read_compose

PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+(\.\d+)?[\w.-]*")
SERVICES = (
    "setup", "inspection", "keys", "simulated-line", "training",
    "prometheus", "alertmanager", "grafana", "dcgm-exporter", "postgres",
)  # fmt: skip
ONCE = ("setup", "keys", "simulated-line", "training")
"""Those that end by themselves."""


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, compose: Any) -> Any:
    return compose["services"][request.param]


def test_every_service_is_looked_at(compose: Any) -> None:
    assert set(compose["services"]) == set(SERVICES)


def test_image_is_pinned(service: Any) -> None:
    assert PINNED.fullmatch(service["image"])


def test_service_is_confined(service: Any) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["deploy"]["resources"]["limits"]["memory"])
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


def test_services_come_back_after_a_restart_of_the_machine(compose: Any) -> None:
    restarts = {name: service["restart"] for name, service in compose["services"].items()}

    assert restarts == {name: "no" if name in ONCE else "unless-stopped" for name in SERVICES}


def test_only_this_machine_reaches_the_station_by_default(compose: Any) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}

    assert set(published) == {"inspection", "prometheus", "alertmanager", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_what_asks_for_no_password_stays_on_this_machine() -> None:
    lines = (REPOSITORY / "docker-compose.yml").read_text().splitlines()

    open_to_all = [line for line in lines if re.search(r"ports:.*(PROMETHEUS|ALERTMANAGER)_PORT", line)]

    assert len(open_to_all) == 2
    assert all('"127.0.0.1:' in line for line in open_to_all)


def test_no_secret_stands_in_a_variable(compose: Any) -> None:
    for name, service in compose["services"].items():
        for variable in service.get("environment", {}):
            assert not re.search(r"(PASSWORD|SECRET|TOKEN|KEYS?)$", variable), f"{name}: {variable}"


def test_whoever_depends_on_another_waits_until_it_is_well(compose: Any) -> None:
    for name, service in compose["services"].items():
        for other, how in service.get("depends_on", {}).items():
            ends = compose["services"][other]["restart"] == "no"
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy"), (name, other)
            # The service's own image says how it is asked.
            assert ends or other == "inspection" or "test" in compose["services"][other]["healthcheck"]


def test_every_volume_is_declared_and_used(compose: Any) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    used = {mount.split(":")[0] for mount in mounts if not mount.startswith((".", "/"))}

    assert used == set(compose["volumes"])


def test_files_of_the_repository_are_there_and_read_only(compose: Any) -> None:
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            if mount.startswith("."):
                path, *rest = mount.split(":")
                assert (REPOSITORY / path).exists(), mount
                assert rest[-1] == "ro" or name == "training"


def test_example_names_every_variable_with_its_default() -> None:
    sources = [REPOSITORY / "docker-compose.yml", *DOCKER.glob("compose.*.yml")]
    used = dict(match for source in sources for match in re.findall(r"\$\{(\w+):-([^}]*)\}", source.read_text()))
    example = (REPOSITORY / ".env.example").read_text()
    named = dict(re.findall(r"^#(\w+)=(.*)$", example, re.MULTILINE))

    assert not re.search(r"^\w", example, re.MULTILINE), "nothing of it counts before somebody says so"
    assert set(used) - set(named) == set()
    own = {"ATSNET_RUNTIME", "STATION_MEMORY"}  # shown with another value; smaller without a GPU
    assert {name: value for name, value in named.items() if name in used and name not in own} == {
        name: value for name, value in used.items() if name not in own
    }


def test_versions_agree(compose: Any, dockerfile: str, version: str) -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile, re.MULTILINE))
    built = [service for service in compose["services"].values() if "build" in service]

    for service in built:
        given = service["build"]["args"]
        assert given == {name: arguments[name] for name in given}
        assert service["image"].split(":")[1].startswith(f"{version}-")


def test_without_a_gpu_nothing_asks_for_one(compose: Any) -> None:
    wants = {name for name, service in compose["services"].items() if "reservations" in service["deploy"]["resources"]}
    override = read_compose(DOCKER / "compose.cpu.yml")["services"]

    assert wants == {"inspection", "training", "dcgm-exporter"}
    assert override["dcgm-exporter"] == {"profiles": ["gpu"]}
    for name in ("inspection", "training"):
        assert override[name]["deploy"]["resources"]["reservations"] == {"devices": None}
    assert override["inspection"]["environment"] == {"ATSNET_RUNTIME": "cpu"}
    for name in ("setup", "keys", "simulated-line", "inspection"):
        assert override[name]["build"] == {"target": "cpu"}
        assert override[name]["image"].endswith("-cpu")


def test_gpu_counters_are_those_that_every_gpu_has() -> None:
    with (DOCKER / "dcgm-counters.csv").open() as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))

    assert rows
    assert all(len(row) == 3 for row in rows)
    assert all(name.startswith("DCGM_FI_DEV_") and kind.strip() in {"gauge", "counter"} for name, kind, _ in rows)
