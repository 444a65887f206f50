"""Where an unfinished training run stands: weights and optimiser in safetensors, the rest in JSON.

The steps of training draw all their random numbers from (seed, stage, step), so that no generator's state needs to be
kept: a resumed run ends with the same bits as one that was never interrupted.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from atsnet.training.run_directory import RunError

STATE_NAME: Final = "state.safetensors"
STATE_RECORD_NAME: Final = "state.json"


@dataclass(frozen=True)
class Position:
    """The next step to take, and what the losses were."""

    stage: int
    step: int
    losses: dict[str, float]
    seconds: float


def save_checkpoint(directory: Path, network: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write the state; a crash while writing leaves the state before it intact."""
    tensors = {f"network.{key}": value.contiguous() for key, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).contiguous()
    temporary = directory / (STATE_NAME + ".tmp")
    save_file(tensors, temporary)
    record = {
        "stage": position.stage,
        "step": position.step,
        "losses": position.losses,
        "seconds": position.seconds,
        "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
    }
    # The record names the digest of its tensors: should only one of the two files be replaced, that is seen.
    record_temporary = directory / (STATE_RECORD_NAME + ".tmp")
    record_temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(directory / STATE_NAME)
    record_temporary.replace(directory / STATE_RECORD_NAME)


def load_checkpoint(directory: Path, network: nn.Module) -> tuple[Position, dict[int, dict[str, Tensor]]]:
    """Restore the network; returns the position and the optimiser's state, by parameter.

    Raises:
        RunError: There is no checkpoint, or it is damaged or of another network.
    """
    try:
        record = json.loads((directory / STATE_RECORD_NAME).read_text())
        content = (directory / STATE_NAME).read_bytes()
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise RunError(f"the checkpoint in {directory} is damaged: {STATE_NAME} is not the file that was written")
        tensors = load_file(directory / STATE_NAME)
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
        position = Position(record["stage"], record["step"], record["losses"], record["seconds"])
    except OSError as error:
        raise RunError(f"{directory} has no checkpoint to resume from: {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, SafetensorError, RuntimeError) as error:
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
    for name in (STATE_NAME, STATE_RECORD_NAME):
        (directory / name).unlink(missing_ok=True)
