"""Where an unfinished training run stands: weights and optimiser in safetensors, the rest in JSON.

The steps of training draw all their random numbers from (seed, stage, step), so that no generator's state needs to be
kept: a resumed run ends with the same bits as one that was never interrupted.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from atsnet.training.run_directory import RunError

STATE_RECORD_NAME: Final = "state.json"
_STATE_PATTERN: Final = "state-*.safetensors"


@dataclass(frozen=True)
class Position:
    """The next step to take, and what the losses were."""

    stage: int
    step: int
    losses: dict[str, float]
    seconds: float


class _Record(BaseModel):
    """Contents of `state.json`: the position, and which file holds the tensors that belong to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: int = Field(ge=1, le=3)
    step: int = Field(ge=0)
    losses: dict[str, float]
    seconds: float
    tensors: str
    sha256: str


def save_checkpoint(directory: Path, network: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write the state; a crash while writing leaves the state before it to resume from."""
    tensors = {f"network.{key}": value.contiguous() for key, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).contiguous()
    path = directory / f"state-{position.stage}-{position.step}.safetensors"
    save_file(tensors, path)
    record = _Record(
        stage=position.stage,
        step=position.step,
        losses=position.losses,
        seconds=position.seconds,
        tensors=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    # The record names its tensors, so that replacing this one file is what makes the new state the current one.
    temporary = directory / (STATE_RECORD_NAME + ".tmp")
    temporary.write_text(record.model_dump_json(indent=2) + "\n")
    temporary.replace(directory / STATE_RECORD_NAME)
    for other in directory.glob(_STATE_PATTERN):
        if other != path:
            other.unlink()


def load_checkpoint(directory: Path, network: nn.Module) -> tuple[Position, dict[int, dict[str, Tensor]]]:
    """Restore the network; returns the position and the optimiser's state, by parameter.

    Raises:
        RunError: There is no checkpoint, or it is damaged or of another network.
    """
    try:
        record = _Record.model_validate_json((directory / STATE_RECORD_NAME).read_bytes())
        content = (directory / record.tensors).read_bytes()
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise RunError(
                f"the checkpoint in {directory} is damaged: {record.tensors} is not the file that was written"
            )
        tensors = load(content)
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
        position = Position(record.stage, record.step, record.losses, record.seconds)
    except OSError as error:
        raise RunError(
            f"{directory} has no checkpoint to resume from ({error.filename}: {error.strerror}); "
            "start again without `--resume`"
        ) from error
    except (ValueError, SafetensorError, RuntimeError) as error:
        raise RunError(f"the checkpoint in {directory} is damaged: {error}") from error
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
    return position, states


def restore_optimizer(optimizer: torch.optim.Optimizer, states: dict[int, dict[str, Tensor]]) -> None:
    """Give a fresh optimiser the state that `load_checkpoint` returned."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def remove_checkpoint(directory: Path) -> None:
    """Remove the state of a run that is finished."""
    (directory / STATE_RECORD_NAME).unlink(missing_ok=True)
    for path in directory.glob(_STATE_PATTERN):
        path.unlink()
