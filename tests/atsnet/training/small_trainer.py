"""Trainers of small networks, and what watches them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from small_training import make_frames, make_network

from atsnet.config import Config
from atsnet.imaging import UInt8Array
from atsnet.network.atsnet import AtsNet
from atsnet.progress import Reporter, silent
from atsnet.training.trainer import Trainer

STAGES = ("stage 1 (teacher)", "stage 2 (student)", "stage 3 (evidence head)")


class StoppedError(Exception):
    """Raised from a report, as when a process ends in the middle of training."""


class Recorder:
    """Keeps what is reported; stops training at `<task>: <done>/<total>`."""

    def __init__(self, stop: str = "") -> None:
        self.stop = stop
        self.losses: dict[str, list[float]] = {}
        self.done: dict[str, list[int]] = {}

    def __call__(self, task: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        assert done <= total
        self.done.setdefault(task, []).append(done)
        if values:
            self.losses.setdefault(task, []).append(values["loss"])
        if f"{task}: {done}/{total}" == self.stop:
            raise StoppedError


def make_trainer(
    directory: Path,
    config: Config,
    *,
    network: AtsNet | None = None,
    frames: UInt8Array | None = None,
    report: Reporter = silent,
) -> Trainer:
    frames = make_frames(6) if frames is None else frames
    network = network or make_network(config)
    return Trainer(network, config, frames, make_frames(2, seed=7), directory, torch.device("cpu"), report)


def bytes_of(network: AtsNet) -> bytes:
    return to_bytes({key: value.contiguous() for key, value in network.state_dict().items()})


def trained_bytes(directory: Path, config: Config) -> bytes:
    trainer = make_trainer(directory, config)
    trainer.run()
    return bytes_of(trainer.network)
