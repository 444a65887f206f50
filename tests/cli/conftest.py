import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from invoking import TINY, atsnet, program

from atsnet.backbones import save_trunk
from atsnet.network.backbone import ResNet18Trunk
from atsnet.training.run_directory import BackboneSource


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything of the whole path lies."""
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="session")
def grains(shop: Path) -> Path:
    result = atsnet("grains", shop / "grains", "--train", 12, "--good", 4, "--defects", 5, "--size", 64)
    assert result.exit_code == 0, result.stderr
    return shop / "grains"


@pytest.fixture(scope="session")
def backbone(shop: Path) -> Path:
    """A trunk with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = BackboneSource(name="random", sha256="", licence="CC0-1.0", origin="a test")
        save_trunk(ResNet18Trunk(), shop / "trunk.safetensors", source)
    return shop / "trunk.safetensors"


@pytest.fixture(scope="session")
def config(shop: Path) -> Path:
    (shop / "tiny.toml").write_text(TINY)
    return shop / "tiny.toml"


@pytest.fixture(scope="session")
def run(shop: Path, grains: Path, backbone: Path, config: Path) -> Path:
    result = atsnet("train", grains, "--out", shop / "run", "--backbone", backbone, "--config", config)
    assert result.exit_code == 0, result.stderr
    return shop / "run"


@pytest.fixture(scope="session")
def calibrated(run: Path, grains: Path) -> Path:
    result = atsnet("calibrate", run, grains, "--review-rate", 0.4)
    assert result.exit_code == 0, result.stderr
    return run


@pytest.fixture(scope="session")
def evaluated(calibrated: Path, grains: Path) -> Path:
    result = atsnet("evaluate", calibrated, grains)
    assert result.exit_code == 0, result.stderr
    return calibrated


@pytest.fixture(scope="session")
def bundle(shop: Path, evaluated: Path, grains: Path) -> Path:
    weights = shop / "weights"
    names = ("--name", "tiny", "--version", "1", "--product", "tec-grain")
    formats = ("--precision", "fp32,fp16", "--triton", shop / "models")
    result = atsnet("export", evaluated, grains, *names, *formats, "--weights", weights)
    assert result.exit_code == 0, result.stderr
    return weights / "tiny" / "1"


@pytest.fixture(scope="session")
def service_url(shop: Path, bundle: Path) -> Iterator[str]:
    """Address of `atsnet serve` in a process of its own; that it ends cleanly is checked at the end."""
    options = ("--port", 0, "--bundle", "tiny/1", "--weights", bundle.parent.parent, "--var", shop / "var")
    with (shop / "serve.log").open("w") as log:
        process = subprocess.Popen(
            program("serve", *options, "--sessions", 1), stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        with process, process.stdout:
            announcement = process.stdout.readline()
            found = re.search(r"http://\S+", announcement)
            assert found, (announcement, (shop / "serve.log").read_text())
            yield found[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
