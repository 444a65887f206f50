"""The `atsnet` command, put together from one module a command.

Commands import what they need when they run: the help, and all that the runtime install is for, work without torch.
"""

from typing import Annotated

import typer

from atsnet import __version__
from cli import (
    ablate,
    benchmark,
    calibrate,
    deploy,
    evaluate,
    export,
    grains,
    inspect,
    keys,
    model,
    pretrain,
    serve,
    simulate_line,
    train,
)
from cli.errors import ReportingGroup
from cli.exit_codes import as_help
from cli.help_text import help_of

_FIRST_STEPS = """Example, from nothing to a verdict:
  atsnet grains data/grains --train 200 --good 100 --defects 100
  atsnet train data/grains --out runs/grains
  atsnet calibrate runs/grains data/grains
  atsnet evaluate runs/grains data/grains
  atsnet export runs/grains data/grains --name grains --version 1 --product tec-grain
  atsnet inspect data/grains/test --local --bundle weights/grains/1"""

app = typer.Typer(
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{_FIRST_STEPS}\n\n{as_help()}",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def atsnet(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find defects on semiconductor grains: learn from images of good parts, judge new ones."""


app.command(epilog=train.EXAMPLES, help=help_of(train.train))(train.train)
app.command(epilog=calibrate.EXAMPLES, help=help_of(calibrate.calibrate))(calibrate.calibrate)
app.command(epilog=evaluate.EXAMPLES, help=help_of(evaluate.evaluate))(evaluate.evaluate)
app.command(epilog=benchmark.EXAMPLES, help=help_of(benchmark.benchmark))(benchmark.benchmark)
app.command(epilog=ablate.EXAMPLES, help=help_of(ablate.ablate))(ablate.ablate)
app.command(epilog=export.EXAMPLES, help=help_of(export.export))(export.export)
app.command(epilog=deploy.EXAMPLES, help=help_of(deploy.deploy))(deploy.deploy)
app.command(cls=serve.ServeCommand, help=help_of(serve.serve))(serve.serve)
app.command(epilog=inspect.EXAMPLES, help=help_of(inspect.inspect))(inspect.inspect)
app.command(epilog=grains.EXAMPLES, help=help_of(grains.grains))(grains.grains)
app.command(epilog=simulate_line.EXAMPLES, help=help_of(simulate_line.simulate_line))(simulate_line.simulate_line)
app.command(cls=pretrain.PretrainCommand, epilog=pretrain.EXAMPLES, help=help_of(pretrain.pretrain))(pretrain.pretrain)
app.add_typer(keys.app, name="keys")
app.add_typer(model.app, name="model")


def main() -> None:
    """Run the command; never returns."""
    app(prog_name="atsnet")
