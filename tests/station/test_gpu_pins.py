"""What the pinned onnxruntime-gpu is linked with, read from its wheel: majors that the image for GPUs has to bring."""

import re
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from debian_packages import Debian, run
from station_images import CACHE, REPOSITORY

pytestmark = [pytest.mark.station, pytest.mark.timeout(900)]

UBUNTU_PYTHON = "3.12"
"""Of Ubuntu 24.04, which the base image is."""
LIBRARIES = {"cuda": "libcudart.so", "cudnn": "libcudnn.so", "tensorrt": "libnvinfer.so"}


def pin(name: str) -> str:
    found = re.search(rf"^{name}==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Majors of the libraries, by name."""
    folder = tmp_path_factory.mktemp("wheel")
    requirement = f"onnxruntime-gpu=={pin('onnxruntime-gpu')}"
    run(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", folder, requirement)
    with ZipFile(next(folder.glob("*.whl"))) as wheel:
        for provider in ("cuda", "tensorrt"):
            wheel.extract(f"onnxruntime/capi/libonnxruntime_providers_{provider}.so", folder)
    Debian(CACHE).install("readelf")
    linked = "".join(run("readelf", "--dynamic", library) for library in sorted(folder.rglob("*.so")))
    return {name: int(re.findall(rf"\[{re.escape(file)}\.(\d+)\]", linked)[0]) for name, file in LIBRARIES.items()}


def test_every_pin_has_a_wheel_for_the_python_of_the_base(tmp_path: Path) -> None:
    """Those of TensorRT's libraries are on no index of Python packages; their sources fetch them from NVIDIA."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["gpu"], *extras["postgres"], *extras["triton"]]
    target = ("--target", tmp_path, "--implementation", "cp", "--python-version", UBUNTU_PYTHON)
    constraints = ("--only-binary", ":all:", "--constraint", REPOSITORY / "constraints.txt")

    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", *target, *constraints,
        *required, "cuda-bindings", "tensorrt_cu13_bindings",
    )  # fmt: skip


def test_base_image_brings_cuda_and_cudnn(needed: dict[str, int]) -> None:
    dockerfile = (REPOSITORY / "docker/Dockerfile").read_text()
    base = re.search(r"^ARG GPU_BASE=nvidia/cuda:(\d+)\.\S+-(cudnn\d*)-runtime-", dockerfile, re.MULTILINE)

    assert base is not None
    assert int(base[1]) == needed["cuda"]
    # The images of CUDA 13 have one cuDNN, 9; those of CUDA 12.3 and before said its number: cudnn8.
    assert (base[2], needed["cudnn"]) == ("cudnn", 9)


def test_tensorrt_is_pinned_to_its_major(needed: dict[str, int]) -> None:
    assert int(pin("tensorrt").split(".")[0]) == needed["tensorrt"]
    assert pin(f"tensorrt_cu{needed['cuda']}_libs") == pin("tensorrt")
    assert int(pin("cuda-bindings").split(".")[0]) == needed["cuda"]
