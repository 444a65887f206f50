"""Docker compose reads the station's files, alone and with every override, and warns of nothing."""

import subprocess

import pytest
from docker_engine import Docker
from station_images import REPOSITORY

pytestmark = [pytest.mark.station, pytest.mark.timeout(900)]

OVERRIDES = sorted(path.name for path in (REPOSITORY / "docker").glob("compose.*.yml"))


@pytest.mark.parametrize("override", [None, *OVERRIDES])
@pytest.mark.parametrize("profiles", [[], ["--profile", "*"]])
def test_configuration_is_clean(docker: Docker, override: str | None, profiles: list[str]) -> None:
    files = ["--file", "docker-compose.yml", *([] if override is None else ["--file", f"docker/{override}"])]
    command = ["docker", "compose", *files, "--env-file", "/dev/null", *profiles, "config", "--quiet"]

    done = subprocess.run(command, cwd=REPOSITORY, env=docker.environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
