"""Every command of docs/station.md, in its order, as somebody would type it in a clone of the repository."""

import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_packages import run
from running_station import RunningStation
from station_images import REPOSITORY, clone

pytestmark = [pytest.mark.station, pytest.mark.timeout(1200)]

DOCUMENT = REPOSITORY / "docs/station.md"
NOT_HERE = {
    "docker compose exec grafana cat /run/station/grafana/admin-password": "Grafana's image comes from a registry",
    "git pull": "the clone has nowhere to pull from",
    "docker compose run --rm training train data/grains --out runs/grains": "takes many minutes",
    "docker compose run --rm training calibrate runs/grains data/grains": "needs what it would have trained",
    "docker compose run --rm training export runs/grains data/grains --name my-grain --version 1 --product my-grain":
        "needs what it would have trained",
}  # fmt: skip

log = logging.getLogger("station")


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def station(built: RunningStation, tmp_path: Path) -> Iterator[RunningStation]:
    """A station of this file's own, not yet started."""
    fresh = built.another("commands", clone(tmp_path / "station"))
    (fresh.clone / ".env").touch()
    yield fresh
    fresh.remove()


def test_every_command(station: RunningStation) -> None:
    environment = {**station.docker.environment, **station.settings, "STATION_USER": "0:0"}  # the copy is root's
    assert set(NOT_HERE) <= set(commands())

    for command in commands():
        if command in NOT_HERE:
            log.info("not run: %s (%s)", command, NOT_HERE[command])
            continue
        here = command.replace("127.0.0.1:8000", f"127.0.0.1:{station.port}")
        shell = ["bash", "-euo", "pipefail", "-c", here]
        done = subprocess.run(shell, cwd=station.clone, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if "keys new" in command:
            environment["ATSNET_API_KEY"] = done.stdout.strip()
        if "curl" in command:
            assert '"status":401' not in done.stdout
            assert '"verdict":"fail"' in done.stdout or '"status":"ready"' in done.stdout

    assert tarred(station.clone / "var.tar") >= {"./records.sqlite3", "./archive"}
    assert (station.clone / "backup.sqlite3").stat().st_size > 0
    assert sum(1 for _ in (station.clone / "data/grains").rglob("*.png")) >= 50


def tarred(archive: Path) -> set[str]:
    return {name.rstrip("/") for name in run("tar", "--list", "--file", archive).splitlines()}
