"""`atsnet keys`: the API keys of the service."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.help_text import help_of
from cli.output import messages, print_json, results

if TYPE_CHECKING:
    from service.security.keys import KeyLine

EXAMPLES = """Examples:
  atsnet keys new --name press-3 --role line --file keys.jsonl
  atsnet keys new --name mes --role operator --expires 2027-12-31
  atsnet keys list --file keys.jsonl
  atsnet keys revoke 0f3c5d7e9a1b2c4d --file keys.jsonl"""


class RoleChoice(StrEnum):
    """Each may do what those before it may."""

    MONITOR = "monitor"
    LINE = "line"
    OPERATOR = "operator"
    ENGINEER = "engineer"


File = Annotated[
    Path, typer.Option(metavar="FILE", envvar="ATSNET_API_KEYS_FILE", help="The key file.", show_default=False)
]


def new(
    name: Annotated[str, typer.Option(metavar="NAME", help="Who it is for; several keys may have one name.")],
    role: Annotated[
        RoleChoice,
        typer.Option(help="What it may do: read metrics, inspect too, see and review too, or everything."),
    ],
    expires: Annotated[
        str | None,
        typer.Option(metavar="DATE|DAYSd", help="Last day (UTC), such as 2027-12-31, or days from now: 90d."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="ATSNET_API_KEYS_FILE",
            help="Key file to put its line into; made where there is none. Without it, the line is printed.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make an API key and print it: once, since only its hash is kept.

    A running service takes up a changed file within a second. To change a key, make a new one of the same name, give it
    to the client, then revoke the old one.
    """
    from service.security.key_file import add
    from service.security.keys import new_key

    now = datetime.now(UTC)
    key, line = new_key(name, role.value, now=now, expires=None if expires is None else _end_of(expires, now))
    if file is not None:
        add(file, line)
    if json:
        print_json({"key": key, "line": line.model_dump(mode="json", exclude_none=True)})
        return
    typer.echo(key)
    if file is None:
        typer.echo(line.as_line())
        messages().print("The first line is the key, shown this once; the second one goes into the key file.")
    else:
        messages().print(f"Its line is in {file}; the key itself is shown this once.")


def listing(file: File, json: options.Json = False) -> None:
    """List the keys of a file, newest last; the keys themselves are not in it."""
    from service.security.key_file import read_lines

    lines = read_lines(file)
    now = datetime.now(UTC)
    if json:
        shown = {"hash"}
        print_json(
            {"keys": [{**line.model_dump(mode="json", exclude=shown), "state": line.state(now)} for line in lines]}
        )
    else:
        _print_table(lines, now)


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `atsnet keys list` shows it.")],
    file: File,
) -> None:
    """Revoke a key: a running service refuses it within a second. Its line stays, for whoever reads old logs."""
    from service.security.key_file import revoke as revoke_in

    line = revoke_in(file, key_id, datetime.now(UTC))
    messages().print(f"key {line.id} of {line.name} is revoked since {line.revoked}")


def _end_of(expires: str, now: datetime) -> datetime:
    """When a key ends that is good for so many days, or on that last day too."""
    if expires.endswith("d") and expires[:-1].isdecimal() and int(expires[:-1]) <= _MOST_DAYS:
        return (now + timedelta(days=int(expires[:-1]))).replace(microsecond=0)
    try:
        day = datetime.strptime(expires, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        message = f"--expires {expires!r} is neither a day such as 2027-12-31 nor a number of days such as 90d"
        raise CommandError(ExitCode.USAGE, message) from error
    return day + timedelta(days=1)


_MOST_DAYS = 36_500


def _print_table(lines: "list[KeyLine]", now: datetime) -> None:
    from rich.table import Table

    table = Table()
    for heading in ("id", "name", "role", "created", "expires", "state"):
        table.add_column(heading, no_wrap=heading != "name")
    for line in lines:
        expires = "never" if line.expires is None else f"{line.expires:%Y-%m-%d %H:%M}"
        table.add_row(line.id, line.name, line.role, f"{line.created:%Y-%m-%d}", expires, line.state(now))
    results().print(table)


app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of the service.", epilog=EXAMPLES)
app.command(epilog=EXAMPLES, help=help_of(new))(new)
app.command("list", epilog=EXAMPLES, help=help_of(listing))(listing)
app.command(epilog=EXAMPLES, help=help_of(revoke))(revoke)
