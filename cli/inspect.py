"""`atsnet inspect`: verdicts on image files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.output import messages, results

if TYPE_CHECKING:
    from cli.inspection import Inspected, LocalInspector, ServiceInspector

EXAMPLES = """Examples:
  atsnet inspect part.png --url http://127.0.0.1:8000 --station s1 --lot L7
  atsnet inspect images/ --local --bundle weights/tec-grain-demo/1 --out overlays
  atsnet inspect images/ --local --json | jq -r 'select(.verdict != "pass").file'"""

_DEFAULT_BUNDLE: Final = Path("weights/tec-grain-demo/1")
_COLOURS: Final = {"pass": "green", "review": "yellow", "fail": "red", "not_evaluated": "magenta"}


def inspect(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Images, or folders that are searched for images.")
    ],
    url: Annotated[str, typer.Option(help="Where the service listens.")] = "http://127.0.0.1:8000",
    local: Annotated[
        bool, typer.Option("--local", help="Run a bundle in this process; no service, no record.")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Bundle for --local; {_DEFAULT_BUNDLE} by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a picture of each image, with its map.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe of the service; its default one without.")] = None,
    station: Annotated[str | None, typer.Option(help="Station to record.")] = None,
    lot: Annotated[str | None, typer.Option(help="Lot to record.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="ATSNET_API_KEY", help="Key that the service asks for.", show_envvar=True)
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Certificates that an https service's is signed by.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Certificate of this client, with its private key.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a file, each on a line of its own.")
    ] = False,
) -> None:
    """Have images inspected by a service, or by a bundle in this process.

    Ends with 0 when every part passed, and with 10 when one did not: failed, for review, or not evaluated. An image
    that cannot be read is not evaluated; the others are inspected nevertheless.
    """
    from cli.inspection import ServiceInspector, open_bundle
    from service.client import Tls

    if local and (recipe or station or lot):
        raise typer.BadParameter(
            "--recipe, --station and --lot are for a service's records; --local keeps none", param_hint="--local"
        )
    if bundle is not None and not local:
        raise typer.BadParameter("the service has its own bundle; add --local to run this one", param_hint="--bundle")
    images = _find_images(files)
    inspector: LocalInspector | ServiceInspector
    if local:
        inspector = open_bundle(bundle or _DEFAULT_BUNDLE)
    else:
        tls = Tls(ca=tls_ca, certificate=tls_certificate)
        inspector = ServiceInspector(url, recipe=recipe, station=station, lot=lot, api_key=api_key, tls=tls)
    done: list[Inspected] = []
    try:
        with inspector:
            for inspected in _inspect_all(images, inspector, out):
                done.append(inspected)
                if json:
                    typer.echo(inspected.model_dump_json())
    finally:  # what was inspected before the service went away is worth showing too
        if done and not json:
            _print_table(done)
    if any(inspected.verdict != "pass" for inspected in done):
        raise typer.Exit(ExitCode.NOT_ALL_PASSED)


def _find_images(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Each file with its place below `--out`: that of a file in a folder is the same as in the folder."""
    from atsnet.imaging import IMAGE_SUFFIXES

    found: list[tuple[Path, Path]] = []
    for file in files:
        if not file.is_dir():
            found.append((file, Path(file.name)))
            continue
        below = [
            path
            for path in sorted(file.rglob("*"))
            if path.suffix.lower() in IMAGE_SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(file).parts)
        ]
        if not below:
            raise CommandError(
                ExitCode.DATA, f"no images in {file}; looked for {', '.join(sorted(IMAGE_SUFFIXES))} there and below"
            )
        found += [(path, path.relative_to(file)) for path in below]
    return found


def _inspect_all(
    images: Sequence[tuple[Path, Path]], inspector: "LocalInspector | ServiceInspector", out: Path | None
) -> Iterator["Inspected"]:
    from atsnet.progress import ConsoleReporter
    from cli.inspection import Inspected

    taken: set[Path] = set()
    with ConsoleReporter(messages()) as report:
        for number, (path, place) in enumerate(images, start=1):
            try:
                content = path.read_bytes()
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
                yield Inspected(file=str(path), verdict="not_evaluated", error=reason)
            else:
                inspected, picture = inspector.inspect(str(path), content, overlay=out is not None)
                if out is not None and picture is not None:
                    target = _unused(out / place.with_name(f"{place.stem}_overlay.png"), taken)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(picture)
                    inspected = inspected.model_copy(update={"overlay": str(target)})
                yield inspected
            report("inspecting", number, len(images))


def _unused(path: Path, taken: set[Path]) -> Path:
    """The path, or one with a number where two images of this call have the same name."""
    candidate, number = path, 2
    while candidate in taken:
        candidate, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    taken.add(candidate)
    return candidate


def _print_table(done: Sequence["Inspected"]) -> None:
    from rich.table import Table
    from rich.text import Text

    from atsnet.wording import counted

    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for heading in ("score", "regions", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in done:
        score = "" if row.score is None else f"{row.score:.3f}"
        duration = "" if row.ms is None else f"{row.ms:.1f}"
        regions = "" if row.score is None else str(len(row.regions))
        name = Text(row.file if row.error is None else f"{row.file}\n{row.error}")
        table.add_row(name, Text(row.verdict, style=_COLOURS[row.verdict]), score, regions, duration)
    results().print(table)
    counts = {word: sum(row.verdict == word for row in done) for word in _COLOURS}
    total = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    results().print(f"{counted(len(done), 'image')}: {total}")
