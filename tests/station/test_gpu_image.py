"""The image for GPUs, built on a base without CUDA and without TensorRT's libraries, which no index of packages has.

It shows that the build goes through and that the image refuses to serve without a GPU. No GPU runs it here.
"""

import io
import logging
import tarfile
from pathlib import Path

import pytest
from docker_engine import Docker
from running_station import RunningStation
from station_images import REPOSITORY

pytestmark = [pytest.mark.station, pytest.mark.timeout(900)]

log = logging.getLogger("station")

PYPROJECT = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "tensorrt_cu13_libs"
version = "{version}"
[tool.setuptools]
packages = []
"""


def empty_libraries(folder: Path) -> None:
    """A source package in place of TensorRT's libraries; its version has a mark, and so goes before the index's."""
    version = "10.16.1.11+absent"
    with tarfile.open(folder / f"tensorrt_cu13_libs-{version}.tar.gz", "w:gz") as archive:
        content = PYPROJECT.format(version=version).encode()
        member = tarfile.TarInfo(f"tensorrt_cu13_libs-{version}/pyproject.toml")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def image(docker: Docker, base: str, built: RunningStation, tmp_path_factory: pytest.TempPathFactory) -> str:
    wheels = tmp_path_factory.mktemp("wheels")
    empty_libraries(wheels)
    settings = {**built.settings, "GPU_BASE": base, "STATION_WHEELS": str(wheels)}
    docker("compose", "--file", REPOSITORY / "docker-compose.yml", "build", "inspection", variables=settings)
    made = built.image.replace("-cpu", "-gpu")
    log.info("image gpu %.0f MB without CUDA, cuDNN and TensorRT", docker.megabytes(made))
    return made


def test_it_has_what_a_gpu_takes_and_no_torch(docker: Docker, image: str) -> None:
    script = (
        "import importlib.util as u, onnxruntime as o, importlib.metadata as m\n"
        "print(*o.get_available_providers(), m.version('tensorrt'), m.version('cuda-bindings'), u.find_spec('torch'))"
    )

    said = docker("run", "--rm", "--entrypoint", "python3", image, "-c", script).split()

    assert {"CUDAExecutionProvider", "TensorrtExecutionProvider"} <= set(said)
    assert said[-3:] == ["10.16.1.11", "13.0.3", "None"]


@pytest.mark.parametrize("runtime", ["cuda", "tensorrt"])
def test_without_a_gpu_it_does_not_serve(docker: Docker, image: str, runtime: str) -> None:
    confined = ("--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp", "--tmpfs", "/var/lib/atsnet:uid=10001")

    with pytest.raises(AssertionError, match="ended with 4") as refused:
        docker("run", "--rm", *confined, image, "serve", "--host", "127.0.0.1", "--runtime", runtime)

    assert "GPU" in str(refused.value)
