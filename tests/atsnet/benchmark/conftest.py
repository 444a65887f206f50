from pathlib import Path

import pytest
import torch

from atsnet.backbones import save_trunk
from atsnet.benchmark.cell import Backbone
from atsnet.data.grains import write_grain_set
from atsnet.network.backbone import ResNet18Trunk
from atsnet.training.run_directory import BackboneSource

TINY = """
[input]
height = 64
width = 64
[network]
student_width = 32
heads = 4
window = 4
grid = 4
coupling_hidden = [8, 8, 8]
memory_size = 50
memory_width = 8
evidence_width = 4
[training]
batch_size = 4
stage1_steps = 2
stage2_steps = 3
stage3_steps = 3
warmup_steps = 1
synthetic_images = 4
holdout_fraction = 0.4
checkpoint_every = 1
"""


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts, of 12 good images to learn from each."""
    root = tmp_path_factory.mktemp("parts")
    for seed, name in enumerate(("left", "right")):
        write_grain_set(root / name, train=12, good=3, defects=5, size=64, seed=seed)
    return root


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A trunk with random weights."""
    folder = tmp_path_factory.mktemp("trunk")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = BackboneSource(name="random", sha256="", licence="none", origin="tests")
        save_trunk(ResNet18Trunk(), folder / "trunk.safetensors", source)
    return Backbone(str(folder / "trunk.safetensors"), folder / "none.json", folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that trains in a second."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path
