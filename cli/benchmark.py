"""`atsnet benchmark`: ATS-Net and the baselines on every part of a data set, with several seeds."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.devices import DeviceChoice, choose_device
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.output import messages, print_json, results

if TYPE_CHECKING:
    from atsnet.benchmark.plan import Variant

EXAMPLES = """Examples:
  atsnet benchmark data/mvtec_ad --out runs/mvtec --seeds 3
  atsnet benchmark data/grains --out runs/quick --seeds 1 --methods ats-net,patchcore --set training.stage2_steps=100"""

_WIDTH_OF_A_FILE = 160

Root = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET_ROOT",
        help="Folder of one part or several: MVTec AD, MVTec AD 2, VisA, BTAD, or plain good and defective images.",
    ),
]
Out = Annotated[
    Path, typer.Option(metavar="DIR", help="Where results go; the same DIR again goes on where it stopped.")
]
Backbone = Annotated[
    str,
    typer.Option(metavar="NAME|FILE", help="Backbone of the registry, or a .safetensors, .pth or .pt file, for all."),
]
Seeds = Annotated[int, typer.Option(min=1, help="How many times each, with the seeds 0, 1, ...")]
Config = Annotated[Path | None, typer.Option(metavar="FILE.toml", help="The one configuration of all parts.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the configuration; may be repeated."),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Cells side by side; one for each GPU, or for every two CPU cores, by default."),
]


@dataclass(frozen=True)
class Request:
    """What `benchmark` and `ablate` are both asked for."""

    root: Path
    out: Path
    backbone: str
    seeds: int
    config: Path | None
    assignments: tuple[str, ...]
    jobs: int | None
    device: DeviceChoice
    registry: Path
    cache: Path
    json: bool

    def command(self, name: str, *own: str) -> str:
        """The command line that asks for the same results, wherever and however they are computed."""
        words = ["atsnet", name, str(self.root), "--out", str(self.out), "--backbone", self.backbone]
        words += ["--seeds", str(self.seeds), *own, *(["--config", str(self.config)] if self.config else [])]
        return shlex.join([*words, *(word for assignment in self.assignments for word in ("--set", assignment))])

    def how(self) -> str:
        """The options that the command line leaves out, where they are not the default ones."""
        words = ["--jobs", str(self.jobs)] if self.jobs else []
        words += [] if self.device is DeviceChoice.AUTO else ["--device", self.device.value]
        words += [] if self.registry == options.find_registry(options.REGISTRY) else ["--registry", str(self.registry)]
        words += [] if self.cache == options.CACHE.expanduser() else ["--cache", str(self.cache)]
        return shlex.join([*words, *(["--json"] if self.json else [])])


def benchmark(
    root: Root,
    out: Out,
    backbone: Backbone = "imagenet",
    seeds: Seeds = 3,
    methods: Annotated[
        str, typer.Option(metavar="NAME,...", help="Which methods, in the order of the table; all by default.")
    ] = "ats-net,mkd,stfpm,patchcore,padim",
    config: Config = None,
    assignments: Assignments = None,
    jobs: Jobs = None,
    device: options.Device = DeviceChoice.AUTO,
    registry: options.Registry = options.REGISTRY,
    cache: options.Cache = options.CACHE,
    json: options.Json = False,
) -> None:
    """Compare ATS-Net with the baselines: same parts, images, trunk, frames and held-out good images for all.

    Every part is learned by every method with every seed, all with one configuration; each such cell is calibrated on
    held-out good images and assessed on the test images. Several cells run side by side. DIR gets results.json,
    table.md, bars.png and a file for every finished cell, which is not run again unless its inputs changed.
    """
    from atsnet.benchmark.plan import ATS_NET, METHODS, method_variants

    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise typer.BadParameter(
            f"unknown: {', '.join(unknown) or 'nothing given'}; choose from {', '.join(METHODS)}",
            param_hint="--methods",
        )
    request = Request(
        root, out, backbone, seeds, config, tuple(assignments or ()), jobs, device, registry, cache.expanduser(), json
    )
    compared = [(ATS_NET, name) for name in names if name != ATS_NET] if ATS_NET in names else []
    run(
        request,
        "Benchmark",
        request.command("benchmark", "--methods", ",".join(names)),
        method_variants(names),
        compared,
    )


def run(
    request: Request, what: str, command: str, variants: "Sequence[Variant]", compared: Sequence[tuple[str, str]]
) -> None:
    """Run a benchmark and print its tables.

    Raises:
        CommandError: Cells failed.
        KeyboardInterrupt: Ctrl-C, with how to go on as its message.
    """
    from atsnet.benchmark.benchmark import RESULTS_NAME, run_benchmark
    from atsnet.benchmark.board import Board
    from atsnet.benchmark.cell import Backbone
    from atsnet.benchmark.tables import to_terminal
    from atsnet.data.layout import find_datasets
    from atsnet.wording import counted

    chosen = choose_device(request.device)
    datasets = find_datasets(request.root)
    board = Board(messages())
    try:
        with board:
            found = run_benchmark(
                datasets,
                variants,
                Backbone(request.backbone, request.registry, request.cache),
                request.out,
                board,
                title=f"{what}: {request.root.resolve().name}",
                command=command,
                compared=compared,
                seeds=request.seeds,
                config=request.config,
                assignments=request.assignments,
                device=chosen,
                jobs=request.jobs,
            )
    except KeyboardInterrupt:
        done = f"{board.done} of {counted(board.total, 'cell')} finished"
        raise KeyboardInterrupt(f"interrupted; {done}. Go on with:\n  {command} {request.how()}".rstrip()) from None
    if request.json:
        print_json(found)
    else:
        console = results()
        if not console.is_terminal:
            console.width = _WIDTH_OF_A_FILE
        console.print(to_terminal(found))
    messages().print(f"tables, chart and {RESULTS_NAME} are in {request.out}")
    if found.failures:
        raise CommandError(
            ExitCode.INCOMPLETE,
            f"{len(found.failures)} of {counted(board.total, 'cell')} failed; the same command tries them again:\n"
            + "\n".join(f"  {name}: {error}" for name, error in found.failures.items()),
        )
