"""The Dockerfile, by reading it: pins that agree, what goes into which image, and who runs it."""

import re

import pytest

STAGE = re.compile(r"^FROM (?P<base>\S+) AS (?P<name>\S+)$", re.MULTILINE)

GPU_MAJORS = {"cuda": 13, "cudnn": 9, "tensorrt": 10}
"""Those that onnxruntime-gpu 1.31.1 is linked with; `make test-station` reads them from its wheel."""


def stages(dockerfile: str) -> dict[str, tuple[str, str]]:
    """Base and instructions of every stage, by name."""
    found = list(STAGE.finditer(dockerfile))
    ends = [match.start() for match in found[1:]] + [len(dockerfile)]
    return {
        match["name"]: (match["base"], dockerfile[match.end() : end]) for match, end in zip(found, ends, strict=True)
    }


def argument(dockerfile: str, name: str) -> str:
    values = set(re.findall(rf"^ARG {name}=(\S+)$", dockerfile, re.MULTILINE))
    assert len(values) == 1, f"{name} has the values {values}"
    return str(values.pop())


def test_gpu_pins_agree(dockerfile: str, pins: dict[str, str]) -> None:
    base = re.fullmatch(r"nvidia/cuda:(\d+)\.\d+\.\d+-cudnn-runtime-ubuntu24\.04", argument(dockerfile, "GPU_BASE"))

    assert pins["onnxruntime-gpu"].startswith("1.31.")
    assert base is not None
    assert int(base[1]) == GPU_MAJORS["cuda"]
    assert pins["cuda-bindings"].split(".")[0] == str(GPU_MAJORS["cuda"])
    tensorrt = {pins[name] for name in pins if name.startswith("tensorrt")}
    assert len(tensorrt) == 1
    assert tensorrt.pop().split(".")[0] == str(GPU_MAJORS["tensorrt"])
    assert {name for name in pins if name.startswith("tensorrt_cu")} == {
        f"tensorrt_cu{GPU_MAJORS['cuda']}{part}" for part in ("", "_bindings", "_libs")
    }


def test_bases_are_arguments_with_versions(dockerfile: str) -> None:
    bases = [base for base, _ in stages(dockerfile).values()]

    assert {base for base in bases if not base.endswith(("-base", "-build"))} == {
        "scratch", "${CPU_BASE}", "${GPU_BASE}",
    }  # fmt: skip
    for name in ("CPU_BASE", "GPU_BASE"):
        assert re.search(r":\d+\.\d+\.\d+-", argument(dockerfile, name))


def test_version_is_the_project_s(dockerfile: str, version: str) -> None:
    assert argument(dockerfile, "VERSION") == version


@pytest.mark.parametrize(
    ("stage", "extras"),
    [
        ("cpu-build", {"cpu", "postgres", "triton"}),
        ("gpu-build", {"gpu", "tensorrt", "postgres", "triton"}),
        ("export-build", {"cpu", "postgres", "triton", "train"}),
    ],
)
def test_requirements_come_from_the_constraints_as_wheels(dockerfile: str, stage: str, extras: set[str]) -> None:
    commands = [
        line for line in re.sub(r"\\\n", " ", stages(dockerfile)[stage][1]).splitlines() if "pip install" in line
    ]
    requirements = [command for command in commands if "--no-deps" not in command]

    assert len(requirements) == 1
    assert "--constraint constraints.txt --only-binary :all:" in requirements[0]
    found = re.search(r"'\.\[([a-z,]+)\]'", requirements[0])
    assert found is not None
    assert set(found[1].split(",")) == extras


@pytest.mark.parametrize("target", ["cpu", "gpu", "export"])
def test_images_run_as_nobody_special(dockerfile: str, target: str) -> None:
    base, instructions = stages(dockerfile)[target]

    assert f"COPY --from={target}-build /opt/atsnet /opt/atsnet" in instructions
    assert "\nUSER 10001:10001\n" in instructions
    assert "RUN" not in instructions
    assert base == ("gpu-base" if target == "gpu" else "cpu-base")
    for label in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in instructions


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_images_that_serve_are_watched_and_get_the_signals(dockerfile: str, target: str) -> None:
    _, instructions = stages(dockerfile)[target]

    assert 'CMD ["python3", "/usr/local/lib/station/healthcheck.py"]' in instructions
    assert '\nENTRYPOINT ["atsnet"]\n' in instructions  # no shell between the service and SIGTERM


def test_bases_of_cpu_and_gpu_differ_in_nothing_of_ours(dockerfile: str) -> None:
    cpu, gpu = stages(dockerfile)["cpu-base"][1], stages(dockerfile)["gpu-base"][1]

    assert cpu.split("WORKDIR")[0].strip() in gpu
