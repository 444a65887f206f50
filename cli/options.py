"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from cli.devices import DeviceChoice

REGISTRY = Path("weights/backbones.json")
CACHE = Path("~/.cache/atsnet")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run, as `atsnet train` makes it.")]
Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Folder in the layout of MVTec AD, MVTec AD 2, BTAD or VisA, or a plain one: good images alone, or good/ "
        "beside a folder for each defect.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Device = Annotated[DeviceChoice, typer.Option(help="Where to compute; auto takes a CUDA GPU where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default as many as PyTorch chooses.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]

TensorRt = Annotated[bool, typer.Option("--tensorrt", help="Build the TensorRT engine of this machine's GPU.")]
Engines = Annotated[Path, typer.Option(help="Directory of built engines.")]
Triton = Annotated[Path | None, typer.Option(metavar="DIR", help="Write it into a model repository of Triton.")]


def find_registry(registry: Path) -> Path:
    """The registry as it is given; that of this installation where the default one is not in the current directory."""
    installed = Path(__file__).parents[1] / REGISTRY
    return installed if registry == REGISTRY and not registry.exists() and installed.exists() else registry


Registry = Annotated[Path, typer.Option(help="The registry of published backbones.", callback=find_registry)]
Cache = Annotated[
    Path,
    typer.Option(envvar="ATSNET_CACHE", help="Directory that downloaded backbones are kept in.", show_default=True),
]
