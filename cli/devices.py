"""Which processor trains and scores."""

from enum import StrEnum
from typing import TYPE_CHECKING

from cli.errors import CommandError
from cli.exit_codes import ExitCode

if TYPE_CHECKING:
    import torch


class DeviceChoice(StrEnum):
    """What `--device` may say."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def choose_device(choice: DeviceChoice, threads: int | None = None) -> "torch.device":
    """The device to compute on, with the number of CPU threads set.

    Raises:
        CommandError: A GPU was asked for and there is none; nothing falls back silently.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if choice is DeviceChoice.CUDA and not available:
        raise CommandError(
            ExitCode.CONFIGURATION, "--device cuda: PyTorch sees no CUDA GPU here; use --device cpu, or auto"
        )
    return torch.device("cuda" if available and choice is not DeviceChoice.CPU else "cpu")
