"""`atsnet simulate-line`: parts for a service, when there is no line."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.grains import HolderChoice
from cli.output import messages, results

if TYPE_CHECKING:
    from cli.simulated_line import Conveyor, Specimens, Summary
    from service.client import AsyncInspectionClient, ServiceError

EXAMPLES = """Examples:
  atsnet simulate-line --rate 600/min --stations 2
  atsnet simulate-line --rate 20/s --burst 12 --defective 0.2 --defect crack --defect chip --duration 60
  atsnet simulate-line --count 500 --json | jq .latency_ms.p99"""

_SECONDS: Final = {"s": 1, "min": 60}
_MOST_PER_S: Final = 10_000


def simulate_line(
    url: Annotated[str, typer.Option(help="Where the service listens.")] = "http://127.0.0.1:8000",
    rate: Annotated[str, typer.Option(metavar="N/s|N/min", help="Parts, of all stations together.")] = "10/s",
    stations: Annotated[int, typer.Option(min=1, max=1000, help="Stations; parts go to them by turns.")] = 1,
    burst: Annotated[
        int,
        typer.Option(min=1, help="Parts that come close together, as from a stop-and-go conveyor; 1 is a steady belt."),
    ] = 1,
    defective: Annotated[float, typer.Option(min=0, max=1, help="Share of defective parts.")] = 0.1,
    defect: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Kind of the defects; may be repeated. All by default.")
    ] = None,
    repeat: Annotated[
        float, typer.Option(min=0, max=1, help="Share of parts that are posted twice, as after a lost reply.")
    ] = 0.05,
    count: Annotated[int | None, typer.Option(min=1, help="Parts; until Ctrl-C by default.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.1, metavar="SECONDS", help="How long; until Ctrl-C by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed brings the same parts in the same order.")] = 1,
    pictures: Annotated[
        int, typer.Option(min=2, help="Grains that are drawn before the start; the parts share them.")
    ] = 200,
    size: Annotated[int, typer.Option(min=64, help="Height and width of the pictures in pixels.")] = 256,
    holder: Annotated[HolderChoice, typer.Option(help="What the parts lie on.")] = HolderChoice.DARK,
    lot_size: Annotated[int, typer.Option(min=1, help="Parts of a lot.")] = 500,
    recipe: Annotated[str | None, typer.Option(help="Recipe of the service; its default one without.")] = None,
    deadline_ms: Annotated[
        int, typer.Option(min=1, max=600_000, help="How long a part waits for its answer, retries included.")
    ] = 2000,
    serve: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Start a service at the URL, which keeps all in DIR and ends with the line."),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Longest wait for the service to be ready.")
    ] = 60,
    api_key: Annotated[
        str | None, typer.Option(envvar="ATSNET_API_KEY", help="Key that the service asks for.", show_envvar=True)
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Certificates that an https service's is signed by.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Certificate of this client, with its private key.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as a JSON object.")] = False,
) -> None:
    """Post drawn grains to a service as the controllers of a line would, and watch what it makes of them.

    Parts come when they are due, whatever the service does; latency counts from then. Each has a serial number and a
    lot of its own. Some are posted twice, as after a lost reply, and must get the same verdict again.

    Ctrl-C lets no more parts come and ends with the summary. Ends with 11 when a part got no answer, another one when
    it was posted again, or one that says that the engine failed; refusals are counted and are no fault.
    """
    import asyncio
    from contextlib import nullcontext

    from atsnet.data.grains import DEFECTS
    from atsnet.progress import ConsoleReporter
    from cli.simulated_line import Conveyor, draw_specimens, new_run
    from cli.simulated_line.board import board
    from cli.simulated_line.own_service import serving
    from service.client import AsyncInspectionClient, Tls

    conveyor = Conveyor(
        rate=_per_second(rate),
        stations=stations,
        share=defective,
        burst=burst,
        repeats=repeat,
        lot_size=lot_size,
        seed=seed,
        run=new_run(),
    )
    kinds = tuple(dict.fromkeys(defect or DEFECTS))
    try:
        with ConsoleReporter(messages()) as report:
            specimens = draw_specimens(
                pictures,
                share=defective,
                defects=kinds,
                seed=seed,
                size=size,
                holder=holder.value,
                progress=lambda done, total: report("drawing grains", done, total),
            )
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from error
    tls = Tls(ca=tls_ca, certificate=tls_certificate)
    with serving(url, serve) if serve is not None else nullcontext():
        if serve is not None:
            messages().print(f"a service listens on {url}, its pages are {url}/docs; its log is in {serve}")
        summary, refusal = asyncio.run(
            _run(
                conveyor,
                specimens,
                lambda: AsyncInspectionClient(url, timeout_s=deadline_ms / 1000, api_key=api_key, tls=tls),
                recipe=recipe,
                deadline_ms=deadline_ms,
                count=count,
                duration_s=duration,
                wait_s=wait,
            )
        )
    if json:
        typer.echo(summary.model_dump_json(indent=2, by_alias=True))
    else:
        results().print(board(summary))
    if refusal is not None:
        raise refusal
    if summary.faults:
        raise typer.Exit(ExitCode.LINE_FAULT)


async def _run(
    conveyor: "Conveyor",
    specimens: "Specimens",
    open_client: Callable[[], "AsyncInspectionClient"],
    *,
    recipe: str | None,
    deadline_ms: int,
    count: int | None,
    duration_s: float | None,
    wait_s: float,
) -> tuple["Summary", "ServiceError | None"]:
    """Run the line; what it has seen, and why it was refused, where it was."""
    import asyncio
    from contextlib import AsyncExitStack

    from cli.simulated_line import Controller, Line, Tally, stopped_by_signals
    from cli.simulated_line.board import Display

    async with AsyncExitStack() as opened:
        clients = {name: await opened.enter_async_context(open_client()) for name in conveyor.station_names}
        await asyncio.gather(*(client.wait_until_ready(wait_s) for client in clients.values()))
        controllers = {
            name: Controller(client, recipe=recipe, deadline_ms=deadline_ms) for name, client in clients.items()
        }
        line = Line(controllers, Tally(conveyor.run, conveyor.rate, conveyor.station_names, len(specimens)))
        running = asyncio.create_task(line.run(conveyor.parts(specimens), count=count, duration_s=duration_s))
        with stopped_by_signals(line, running), Display(messages()) as display:
            while not running.done():
                await asyncio.wait({running}, timeout=0.5)
                display.show(line.summary())
        if not running.cancelled():
            running.result()
        return line.summary(), line.refusal


def _per_second(rate: str) -> float:
    number, _, unit = rate.partition("/")
    try:
        found = float(number) / _SECONDS[unit or "s"]
    except (ValueError, KeyError):
        found = 0.0
    if not 0 < found <= _MOST_PER_S:
        raise typer.BadParameter(
            f"{rate!r} is no rate; one is 10/s or 600/min, at most {_MOST_PER_S}/s", param_hint="--rate"
        )
    return found
