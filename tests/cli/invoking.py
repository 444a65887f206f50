"""Runs the command in this process, or in one of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from cli.main import app

TINY = """
[input]
height = 64
width = 64
[network]
student_width = 32
heads = 4
window = 4
grid = 4
coupling_hidden = [16, 16, 16]
memory_size = 64
evidence_width = 8
[training]
synthetic_images = 8
batch_size = 4
stage1_steps = 6
stage2_steps = 12
stage3_steps = 7
warmup_steps = 2
checkpoint_every = 5
holdout_fraction = 0.4
"""


def atsnet(*arguments: object) -> Any:
    """Run the command; what it raises beyond its exit codes is in the result's `exception`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="atsnet")


def program(*arguments: object) -> list[str]:
    """The command line of a process of its own."""
    main = "from cli.main import main; main()"
    return [sys.executable, "-c", main, *(str(argument) for argument in arguments)]


def run_program(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program(*arguments), capture_output=True, text=True, timeout=120, cwd=cwd)


_WITHOUT_TRAINING = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "safetensors", "scipy", "sklearn", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
sys.argv[0] = "atsnet"
from cli.main import main
"""


def without_training(*arguments: object, before: str = "") -> tuple[int, str, str]:
    """Run the command as in the runtime install, which has no torch, in a process that runs lines `before` it."""
    command = [sys.executable, "-c", f"{_WITHOUT_TRAINING}{before}\nmain()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr
