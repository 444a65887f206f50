"""`atsnet serve`: the inspection service."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class ServeCommand(TyperCommand):
    """The command with the list of settings in its help, made from the settings themselves."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        self.epilog = _epilog()
        super().format_help(ctx, formatter)


def serve(
    config: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Settings file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
    bundle: Annotated[str | None, typer.Option(metavar="NAME/VERSION", help="Bundle to serve.")] = None,
    weights: Annotated[Path | None, typer.Option(metavar="DIR", help="Directory of the bundles.")] = None,
    var: Annotated[Path | None, typer.Option(metavar="DIR", help="Directory for records and kept images.")] = None,
    runtime: Annotated[
        str | None, typer.Option(metavar="cpu|cuda|tensorrt|triton", help="What runs the network.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="HTTP worker processes; with several, the network runs in one of its own."),
    ] = None,
    sessions: Annotated[int | None, typer.Option(min=1, help="Inference sessions, one core each.")] = None,
    log_format: Annotated[str | None, typer.Option(metavar="json|console", help="Form of the log lines.")] = None,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = None,
) -> None:
    """Inspect parts over HTTP until Ctrl-C or SIGTERM; what was accepted by then is finished.

    Options win over ATSNET_* variables, these over the file, this over the defaults.
    """
    from service.server import serve as run_service
    from service.settings import load_settings

    given = {
        "host": host,
        "port": port,
        "bundle": bundle,
        "weights": weights,
        "var": var,
        "runtime": runtime,
        "workers": workers,
        "sessions": sessions,
        "log_format": log_format,
        "log_level": log_level,
    }
    settings = load_settings(config, **{name: value for name, value in given.items() if value is not None})
    raise typer.Exit(run_service(settings))


def _as_given(default: object) -> str:
    """The way a variable says it."""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _epilog() -> str:
    from rich.markup import escape

    from service.settings import ENV_PREFIX, Settings

    lines = [
        "Examples:",
        "  atsnet serve --port 8080 --bundle tec-grain-demo/1",
        "  atsnet serve --config station.toml",
        "  atsnet serve --runtime tensorrt --workers 2 --bundle my-grain/2",
    ]
    lines.append("\nEvery setting, as a variable or (in lower case, without ATSNET_) as a key of the file:")
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f" [{_as_given(field.default)}]"
        lines.append(escape(f"{ENV_PREFIX}{name.upper()}{default}  {field.description}"))
    return "\n".join(lines)
