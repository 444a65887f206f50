"""A network that trains in seconds: 64x64 frames of a simple pattern, and a trunk with random weights."""

from typing import Any

import numpy as np
import torch

from atsnet.config import Config
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.network.backbone import ResNet18Trunk
from atsnet.training.run_directory import BackboneSource

BACKBONE = BackboneSource(name="random", sha256="0" * 64, licence="none", origin="tests")


def small_config(
    *, color: str = "mono", augmented: bool = True, network: dict[str, Any] | None = None, **training: Any
) -> Config:
    """Every key whose default could be tuned and would make a test slow or aimless is given."""
    defaults = {
        "seed": 1,
        "batch_size": 4,
        "stage1_steps": 4,
        "stage2_steps": 4,
        "stage1_learning_rate": 2e-3,
        "stage2_learning_rate": 2e-3,
        "stage3_steps": 4,
        "stage3_learning_rate": 2e-3,
        "warmup_steps": 1,
        "checkpoint_every": 1000,
        "bfloat16": False,
        "exposure_spread": 0.1,
        "synthetic_images": 8,
    }
    return Config.model_validate(
        {
            "input": {"height": 64, "width": 64, "color": color},
            "network": {
                "student_width": 32,
                "heads": 4,
                "window": 4,
                "grid": 4,
                "coupling_hidden": [8, 8, 8],
                "dropout": 0.1,
                "noise": 0.1,
                "memory_size": 64,
                "memory_width": 16,
                "evidence_width": 8,
                "border_rings": 3,
                **(network or {}),
            },
            "augment": {"horizontal_flip": True, "brightness": 0.05} if augmented else {},
            "training": {**defaults, **training},
        }
    )


def make_frames(count: int, *, seed: int = 0, color: str = "mono") -> UInt8Array:
    """Stripes with a random phase and some noise; a quarter of the frame is padding."""
    rng = np.random.default_rng(seed)
    x = np.arange(64)
    frames = np.zeros((count, 64, 64, 2 if color == "mono" else 4), np.uint8)
    for frame in frames:
        stripes = 128 + 60 * np.sin(x / 4 + rng.uniform(0, 6)) + rng.normal(0, 5, (64, 64))
        frame[..., :-1] = stripes[..., None].clip(0, 255)
        frame[8:56, :, -1] = 255
    return frames


def make_trunk(seed: int = 0) -> ResNet18Trunk:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet18Trunk().eval()


def make_network(config: Config, seed: int = 0) -> AtsNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AtsNet(config.network, config.input)
    network.backbone.load_trunk(make_trunk().state_dict())
    return network
