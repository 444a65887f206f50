"""`atsnet pretrain`: a trunk of one's own, from procedural images or unlabelled ones of the line."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from cli import options
from cli.devices import DeviceChoice, choose_device
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.output import messages, print_json

if TYPE_CHECKING:
    from atsnet.config import PretrainingConfig

EXAMPLES = """Examples:
  atsnet pretrain --out weights/trunk.safetensors --steps 3000
  atsnet pretrain --out line.safetensors --images /data/line --objective vicreg --start weights/trunk.safetensors"""


class ObjectiveChoice(StrEnum):
    """What the trunk learns."""

    FORMULA = "formula"
    VICREG = "vicreg"


class PretrainCommand(TyperCommand):
    """The command with the defaults in its help, taken from the configuration itself."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from atsnet.config import PretrainingConfig

        for option in self.params:
            field = PretrainingConfig.model_fields.get(option.name or "")
            if isinstance(option, TyperOption) and field is not None and option.name != "objective":
                option.help = f"{option.help}; {field.default} by default."
        super().format_help(ctx, formatter)


def pretrain(
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="The trunk, for `train --backbone FILE`.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of unlabelled images; procedural ones without it.")
    ] = None,
    objective: Annotated[
        ObjectiveChoice | None,
        typer.Option(
            help="formula labels procedural images; vicreg compares views. With --images vicreg, else formula."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images a step")] = None,
    size: Annotated[int | None, typer.Option(min=64, help="Side of the images in pixels")] = None,
    textures: Annotated[int | None, typer.Option(min=5, help="Number of formulas")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Largest learning rate")] = None,
    warmup_steps: Annotated[int | None, typer.Option(min=0, help="Steps to reach it")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same trunk, on one machine")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that draw or load images")] = None,
    start: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Backbone to go on from; random weights by default.")
    ] = None,
    threads: options.Threads = None,
    registry: options.Registry = options.REGISTRY,
    cache: options.Cache = options.CACHE,
    json: options.Json = False,
) -> None:
    """Train the backbone from scratch, without labels and without anybody else's images.

    After formula, the features at 1/8 and 1/16 are averages of those at 1/4: docs/pretraining.md says why. The file
    names its licence and the command that makes it again.
    """
    from pydantic import ValidationError

    from atsnet.backbones import load_backbone, save_trunk
    from atsnet.config import PretrainingConfig, describe
    from atsnet.data.layout import find_dataset
    from atsnet.pretraining.pretrain import pretrain as pretrain_trunk
    from atsnet.progress import ConsoleReporter

    if out.suffix != ".safetensors":
        raise typer.BadParameter("the trunk is written as safetensors: name a .safetensors file", param_hint="--out")
    if images is not None and objective is ObjectiveChoice.FORMULA:
        raise typer.BadParameter(
            "formula labels procedural images only; use vicreg with --images", param_hint="--objective"
        )
    given: dict[str, Any] = {
        "objective": objective.value if objective else ("vicreg" if images else None),
        "steps": steps,
        "batch_size": batch_size,
        "size": size,
        "textures": textures,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "seed": seed,
        "workers": workers,
    }
    try:
        config = PretrainingConfig(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise CommandError(ExitCode.CONFIGURATION, describe(error, PretrainingConfig)) from error
    choose_device(DeviceChoice.CPU, threads)
    samples = find_dataset(images).train if images else ()
    with ConsoleReporter(messages()) as report:
        first, before = load_backbone(start, registry, cache.expanduser(), report) if start else (None, None)
        trunk, loss = pretrain_trunk(config, samples, start=first, report=report)
    licence = _licence(images, None if before is None else f"{before.name}: {before.licence}")
    origin = _command(config, out, images, start)
    save_trunk(trunk, out, _source(out.stem, licence, origin))
    messages().print(f"{out}: loss {loss:.4g}, licence {licence}")
    if json:
        print_json({"path": str(out), "loss": loss, "licence": licence, "origin": origin})


def _command(config: "PretrainingConfig", out: Path, images: Path | None, start: str | None) -> str:
    """The command that repeats it, with every choice spelled out, so that other defaults cannot change it."""
    words = ["atsnet", "pretrain", "--out", str(out)]
    words += ["--images", str(images)] if images else []
    words += ["--start", start] if start else []
    for key in ("objective", "steps", "batch_size", "size", "textures", "learning_rate", "warmup_steps", "seed"):
        words += [f"--{key.replace('_', '-')}", str(getattr(config, key))]
    return shlex.join(words)


def _licence(images: Path | None, before: str | None) -> str:
    from atsnet.pretraining.pretrain import LICENCE

    own = LICENCE if images is None else "not stated: trained on images of your own, whose terms apply"
    return own if before is None else f"{own}; started from {before}"


def _source(name: str, licence: str, origin: str) -> Any:
    from atsnet.training.run_directory import BackboneSource

    return BackboneSource(name=name, sha256="", licence=licence, origin=origin)  # the digest is that of the file
