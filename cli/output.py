"""Where commands write: results to standard output, everything else to standard error."""

from collections.abc import Mapping

import typer
from pydantic import BaseModel
from rich.console import Console


def messages() -> Console:
    """The console of standard error, for progress and remarks."""
    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def results() -> Console:
    """The console of standard output, for tables."""
    return Console(markup=False, highlight=False)


def print_json(document: BaseModel | Mapping[str, object]) -> None:
    """Print one JSON document, and nothing else, on standard output."""
    import json

    text = document.model_dump_json(indent=2) if isinstance(document, BaseModel) else json.dumps(document, indent=2)
    typer.echo(text)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    typer.echo(f"warning: {text}", err=True)
