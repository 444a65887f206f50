"""What a durable record costs a request: commits and rows a second, latency and CPU time, alone and in groups.

    python -m benchmarks.records --var /path/on/the/disk --postgres postgresql://USER@HOST/NAME --rounds 15

As many requests as a group has rows are under way at any time, each of which writes its record, waits for the commit
and is followed by the next one, as they do in the service; and for comparison the same with a commit for each record.
The contestants take turns; shown are medians over the rounds. CPU time is that of this process, event loop and writer's
thread together; that of PostgreSQL's server process beside it, where the server is on this machine.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, event, text

from atsnet.imaging import InputGeometry, Placement, Roi
from benchmarks.program import run_program
from service.records import writer
from service.records.database import database_url
from service.records.inspection import FrameLayout, Inspection, new_id
from service.records.store import RecordStore
from service.reply import Region, Timing

SIZES: Final = (1, 4, 16, 64)

_Contestant = tuple[str, int, bool]
"""Database, requests at once, whether those share commits."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round of one contestant."""

    commits_per_s: float
    rows_per_s: float
    wait_ms: float
    """Median time of a request from handing its record over to knowing that it is on disk."""
    cpu_us: float
    """CPU time of this process a row."""
    server_us: float | None
    """CPU time of the server's process a row."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--var", type=Path, help="directory for the SQLite file; a temporary one by default")
    parser.add_argument("--postgres", metavar="URL", help="a database to fill; without it, SQLite alone")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=640, help="of one round of one contestant")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.var, prefix="records-") as folder:
        urls = [database_url(None, Path(folder))]
        if options.postgres:
            urls.append(database_url(options.postgres, Path(folder)))
        stores = [RecordStore(url) for url in urls]
        measured = asyncio.run(_measure(stores, options.rounds, options.rows))
        _print(measured)
        for store in stores:
            store.close()


def sample() -> Inspection:
    """A record such as a line leaves: a reject with two regions."""
    region = Region(x=96, y=64, width=32, height=32, area=1004, peak=1.5625)
    return Inspection(
        id=new_id(),
        created=datetime.now(UTC),
        request_key=f'["station-1", "part", "{new_id()}", 1]',
        station="station-1",
        lot="L7",
        serial="A0001",
        trigger=1,
        recipe="tec-grain",
        recipe_version=1,
        model="tec-grain-demo",
        model_version="1",
        model_digest="0" * 64,
        result=2,
        code=0,
        verdict="fail",
        score=1.562513,
        raw_score=6.250052,
        threshold=1.0,
        regions=(region, region),
        timing=Timing(decode=0.41, queue=0.1, inference=8.21, record=0, total=9.12),
        image_sha256="1" * 64,
        image_width=640,
        image_height=480,
        layout=FrameLayout(
            geometry=InputGeometry(), placement=Placement(Roi(x=0, y=0, width=640, height=480), 0, 32, 256, 192)
        ),
        detail=None,
        face=None,
        faces=None,
    )


async def _measure(stores: Sequence[RecordStore], rounds: int, rows: int) -> dict[_Contestant, list[Measurement]]:
    measured: dict[_Contestant, list[Measurement]] = {}
    base = sample()
    most = writer.MAX_GROUP
    for number in range(rounds + 1):
        for store, size, grouped in product(stores, SIZES, (True, False)):
            if size == 1 and not grouped:
                continue
            writer.MAX_GROUP = most if grouped else 1
            measurement = await _round(store, base, size, max(rows, 4 * size) // size)
            if number:  # the first one warms up
                measured.setdefault((store.engine.dialect.name, size, grouped), []).append(measurement)
    writer.MAX_GROUP = most
    return measured


async def _round(store: RecordStore, base: Inspection, size: int, times: int) -> Measurement:
    commits = 0
    waits: list[float] = []

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    async def request(inspections: Sequence[Inspection]) -> None:
        for inspection in inspections:
            handed_over = time.perf_counter()
            await store.write(inspection)
            waits.append(time.perf_counter() - handed_over)

    work = [[replace(base, id=new_id(), request_key=new_id()) for _ in range(times)] for _ in range(size)]
    event.listen(store.engine, "commit", count)
    server = _server_cpu_s(store.engine)
    cpu, started = time.process_time(), time.perf_counter()
    await asyncio.gather(*(request(inspections) for inspections in work))
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    server_s = None if server is None else (_server_cpu_s(store.engine) or 0.0) - server
    event.remove(store.engine, "commit", count)
    rows = size * times
    return Measurement(
        commits_per_s=commits / wall_s,
        rows_per_s=rows / wall_s,
        wait_ms=statistics.median(waits) * 1e3,
        cpu_us=cpu_s / rows * 1e6,
        server_us=None if server_s is None else server_s / rows * 1e6,
    )


def _server_cpu_s(engine: Engine) -> float | None:
    """CPU time of the server's processes for our connections so far, where they are on this machine."""
    if engine.dialect.name != "postgresql":
        return None
    with engine.connect() as connection:
        pids = connection.execute(text("SELECT pid FROM pg_stat_activity WHERE application_name = 'atsnet'")).scalars()
        try:
            return sum(_cpu_s(pid) for pid in pids)
        except OSError:
            return None


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _print(measured: dict[_Contestant, list[Measurement]]) -> None:
    print(
        "| database | requests at once | commits/s | rows/s | rows a commit | wait, ms | CPU a row, us | server's, us |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (database, size, grouped), rounds in measured.items():
        commits = statistics.median(one.commits_per_s for one in rounds)
        rows = statistics.median(one.rows_per_s for one in rounds)
        wait_ms = statistics.median(one.wait_ms for one in rounds)
        cpu_us = statistics.median(one.cpu_us for one in rounds)
        # The clock of the server's processes ticks every 10 ms: only the mean of all rounds says something.
        servers = [one.server_us for one in rounds if one.server_us is not None]
        server = f"{statistics.fmean(servers):.0f}" if servers else ""
        shown = f"{commits:,.0f} | {rows:,.0f} | {rows / commits:.1f} | {wait_ms:.2f} | {cpu_us:.0f} | {server}"
        print(f"| {database} | {size}{'' if grouped else ', a commit each'} | {shown} |")


if __name__ == "__main__":
    run_program(main)
