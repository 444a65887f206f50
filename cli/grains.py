"""`atsnet grains`: a procedural set to try the detector on."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.output import messages, print_json, results

EXAMPLES = "Example:\n  atsnet grains data/grains --train 200 --good 100 --defects 100 --seed 7"


class HolderChoice(StrEnum):
    """What the parts lie on."""

    DARK = "dark"
    BRIGHT = "bright"


def grains(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; must be empty or not exist.")],
    train: Annotated[int, typer.Option(min=0, help="Good images to train on.")] = 200,
    good: Annotated[int, typer.Option(min=0, help="Good images to test on.")] = 100,
    defects: Annotated[
        int, typer.Option(min=0, help="Defective images to test on, shared evenly by the defects.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The series of parts; the same seed draws the same ones.")] = 0,
    size: Annotated[int, typer.Option(min=64, help="Height and width in pixels.")] = 256,
    holder: Annotated[HolderChoice, typer.Option(help="What the parts lie on.")] = HolderChoice.DARK,
    json: options.Json = False,
) -> None:
    """Draw a set of TEC grains, good and defective, in the MVTec AD layout with a mask for every defect."""
    from rich.table import Table

    from atsnet.data.grains import write_grain_set
    from atsnet.progress import ConsoleReporter

    try:
        with ConsoleReporter(messages()) as report:
            counts = write_grain_set(
                directory,
                train=train,
                good=good,
                defects=defects,
                seed=seed,
                size=size,
                holder=holder.value,
                progress=lambda done, total: report("drawing grains", done, total),
            )
    except FileExistsError as error:
        raise CommandError(ExitCode.DATA, str(error)) from error
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from error
    if json:
        print_json(asdict(counts))
        return
    table = Table(title=str(directory), title_justify="left")
    table.add_column("folder")
    table.add_column("images", justify="right")
    table.add_row("train/good", str(counts.train))
    table.add_row("test/good", str(counts.good))
    for name, count in counts.defects.items():
        table.add_row(f"test/{name}", str(count))
    results().print(table)
