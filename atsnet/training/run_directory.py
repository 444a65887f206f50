"""A training run's directory: the trained network and everything that is known of how it came to be.

    config.json          the resolved configuration
    run.json             images, backbone, losses: `RunRecord`
    model.safetensors    the trained network
    calibration.json     thresholds, once calibrated
    training.md          how training went, for people; training.html is the same in one file, losses.png its chart
    history.jsonl        what it was made from, step by step (see `atsnet.training.history`)
    started.json         images and backbone that training was started with, while it is not finished: `RunStart`
    state.json           where training stands, likewise (see `atsnet.training.checkpoint`)
    state-*.safetensors

Weights are safetensors and the rest is JSON; nothing is ever unpickled.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from atsnet.config import Config
from atsnet.data.layout import Layout
from atsnet.network.atsnet import AtsNet

CONFIG_NAME: Final = "config.json"
RECORD_NAME: Final = "run.json"
START_NAME: Final = "started.json"
MODEL_NAME: Final = "model.safetensors"
CALIBRATION_NAME: Final = "calibration.json"


class RunError(Exception):
    """A run's directory is missing, unfinished or damaged; the message names the file and what to do."""


class BackboneSource(BaseModel):
    """Where the trunk's weights came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    licence: str
    origin: str
    """URL, or the command that made the weights."""


class DataSource(BaseModel):
    """Which normal images a network was trained and calibrated on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout
    """Before there were others, `mvtec` for every set but plain folders."""
    root: str
    """Name of the data folder, without the path to it."""
    train_images: tuple[str, ...]
    """Paths below the root, of the images that the weights were learned from."""
    holdout_images: tuple[str, ...]
    """Paths below the root, of the normal images kept back for quantiles and thresholds."""
    sha256: str
    """Digest over the names and contents of all these images."""
    image_sha256: tuple[str, ...] = ()
    """Of the file of each of them, those of `train_images` first; empty where it was trained before it was kept."""


class RunStart(BaseModel):
    """What a run was started with; it can be resumed with nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: BackboneSource
    data: DataSource


class RunRecord(BaseModel):
    """What a run was made from and how it went."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    atsnet_version: str
    torch_version: str
    backbone: BackboneSource
    data: DataSource
    flat_images: tuple[str, ...] = ()
    """Those of the images that have no contrast at all: one value everywhere."""
    losses: dict[str, float]
    """Last mean loss of each stage."""
    seconds: float


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its network (in eval mode), configuration and record."""

    directory: Path
    network: AtsNet
    config: Config
    record: RunRecord


def save_run(directory: Path, network: AtsNet, config: Config, record: RunRecord) -> None:
    """Write a finished run; the network last, so that its presence says that the run is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_NAME).write_text(config.model_dump_json(indent=2) + "\n")
    (directory / RECORD_NAME).write_text(record.model_dump_json(indent=2) + "\n")
    temporary = directory / (MODEL_NAME + ".tmp")
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, temporary)
    temporary.replace(directory / MODEL_NAME)


def load_run(directory: Path) -> TrainedRun:
    """Load a finished run.

    Raises:
        RunError: The directory is no run, the run is not finished, or a file of it is damaged.
    """
    if not (directory / CONFIG_NAME).is_file():
        raise RunError(f"{directory} is no training run: it has no {CONFIG_NAME}; make one with `atsnet train`")
    if not (directory / MODEL_NAME).is_file():
        raise RunError(
            f"the run in {directory} is not finished; go on with `atsnet train DATA --resume --out {directory}`"
        )
    try:
        config = Config.model_validate_json((directory / CONFIG_NAME).read_bytes())
        record = RunRecord.model_validate_json((directory / RECORD_NAME).read_bytes())
        network = AtsNet(config.network, config.input)
        state: dict[str, Any] = load_file(directory / MODEL_NAME)
        network.load_state_dict(state)
    except (ValueError, OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"the run in {directory} is damaged: {error}") from error
    network.eval()
    return TrainedRun(directory, network, config, record)
