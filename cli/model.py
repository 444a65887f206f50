"""`atsnet model`: what is known of a network without running it on images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.help_text import help_of
from cli.output import print_json, results, warn

if TYPE_CHECKING:
    from atsnet.config import Config
    from atsnet.network.summary import NetworkSummary

EXAMPLES = """Examples:
  atsnet model summary
  atsnet model summary runs/grains --json
  atsnet model summary --set network.student_width=256"""


def summary(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run, finished or not; the default network without it.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Configuration of the network.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the configuration; may be repeated."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Count parameters and multiply-accumulates by part, beside the budget; exit code 4 when over it.

    One MAC is 2 FLOP; batch 1, at the configuration's frame size (256x256 by default).
    """
    if run is not None and (config or assignments):
        raise typer.BadParameter("give a run or a configuration, not both", param_hint="RUN")
    from atsnet.network.summary import MAX_MACS, MAX_PARAMETERS, summarise

    counted = summarise(_config_of(run, config, assignments or []))
    if json:
        budget = {"parameters": MAX_PARAMETERS, "macs_at_256x256": MAX_MACS}
        totals = {
            "parameters": counted.parameters,
            "parameter_bytes": counted.parameter_bytes,
            "macs": counted.macs,
            "macs_at_256x256": counted.macs_at_budget_size,
            "within_budget": counted.within_budget,
        }
        print_json({**counted.model_dump(mode="json"), **totals, "budget": budget})
    else:
        _print_table(counted)
    if not counted.within_budget:
        warn("the network is over its budget; a smaller network.student_width is the first thing to try")
        raise typer.Exit(ExitCode.CONFIGURATION)


def _config_of(run: Path | None, config: Path | None, assignments: list[str]) -> "Config":
    from pydantic import ValidationError

    from atsnet.config import Config, load_config

    if run is None:
        return load_config(config, assignments)
    path = run / "config.json"
    try:
        return Config.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CommandError(
            ExitCode.CONFIGURATION, f"{run} is no training run: {path} cannot be read: {error.strerror}"
        ) from error
    except ValidationError as error:
        raise CommandError(ExitCode.CONFIGURATION, f"{path} is damaged: {error}") from error


def _print_table(counted: "NetworkSummary") -> None:
    from rich.table import Table

    from atsnet.network.summary import MAX_MACS, MAX_PARAMETERS

    title = f"ATS-Net at {counted.height}x{counted.width}, batch 1 (1 MAC = 2 FLOP)"
    table = Table(title=title, title_justify="left", show_footer=False)
    table.add_column("part")
    for heading in ("parameters", "MB float32", "statistics", "MMAC"):
        table.add_column(heading, justify="right")
    for part in counted.parts:
        parameters, size = f"{part.parameters:,}", f"{4 * part.parameters / 1e6:.2f}"
        table.add_row(part.name, parameters, size, f"{part.statistics:,}", f"{part.macs / 1e6:,.1f}")
    table.add_section()
    statistics = sum(part.statistics for part in counted.parts)
    total = (f"{counted.parameters:,}", f"{counted.parameter_bytes / 1e6:.2f}", f"{statistics:,}")
    table.add_row("total", *total, f"{counted.macs / 1e6:,.1f}")
    if counted.macs != counted.macs_at_budget_size:
        table.add_row("at 256x256", *total, f"{counted.macs_at_budget_size / 1e6:,.1f}")
    allowed = (f"{MAX_PARAMETERS:,}", f"{4 * MAX_PARAMETERS / 1e6:.2f}", "", f"{MAX_MACS / 1e6:,.1f}")
    table.add_row("budget at 256x256", *allowed)
    results().print(table)


app = typer.Typer(no_args_is_help=True, help="Look at the network itself.", epilog="Example:\n  atsnet model summary")
app.callback()(lambda: None)  # without it, a group of one command would be that command
app.command(epilog=EXAMPLES, help=help_of(summary))(summary)
