"""Where commands write: results to standard output, everything else to standard error."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer
from pydantic import BaseModel
from rich.console import Console

if TYPE_CHECKING:
    from atsnet.data.layout import Dataset


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


def warn_of_unnamed_folders(dataset: "Dataset") -> None:
    """Warn of folders that are taken for good images though they may be called after defects."""
    from atsnet.data.layout import folders_taken_as_good, listed

    folders = folders_taken_as_good(dataset)
    if folders:
        warn(
            f"everything in {dataset.root} is taken for good images, its folders {listed(folders, ', ')} too; where "
            "they hold defects, put the good images into a folder good beside them"
        )
