"""Table, criteria and plot of the serving benchmark."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_export.bundle import Precision

BARE: Final = "bare runtime"
LITSERVE: Final = "LitServe"
_OURS: Final = "this service"

_RATE_PER_CPU: Final = 850.0
_LITSERVE_RATIO: Final = 5.0
_CPU_MS: Final = 0.75
_LONE_MS: Final = 1.0
_SHARE_OF_BARE: Final = 0.95
_INT8_CPU_MS: Final = 41.0
_TAIL_RATIO: Final = 2.5
_AT_CLIENTS: Final = "16 clients"
_AT_LOAD: Final = ("80% at a beat", "80% at random")
_LONE: Final = "1 client"


@dataclass(frozen=True, slots=True)
class Figures:
    """One contestant under one load."""

    contestant: str
    load: str
    rate: float
    """Requests a second, answered as they should be."""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """User and system time of all its processes, by request."""
    rss_mib: float
    """Resident memory of all its processes at the end."""
    grown_kib: float
    """What that grew by, by request."""
    failures: float
    generator_share: float
    """Of one processor, used by the load generator."""


_NUMBERS: Final = ("rate", "p50_ms", "p99_ms", "cpu_ms", "rss_mib", "grown_kib", "failures", "generator_share")


def median_of(figures: Sequence[Figures]) -> list[Figures]:
    """Each figure's median over the rounds, contestants and loads in the order of their first appearance."""
    rounds: dict[tuple[str, str], list[Figures]] = {}
    for figure in figures:
        rounds.setdefault((figure.contestant, figure.load), []).append(figure)
    order = list(dict.fromkeys(figure.contestant for figure in figures))
    return [
        Figures(*key, *(statistics.median(getattr(figure, name) for figure in found) for name in _NUMBERS))
        for key, found in sorted(rounds.items(), key=lambda item: order.index(item[0][0]))
    ]


def print_table(figures: Sequence[Figures]) -> None:
    """As Markdown."""
    heads = ["", "load", "requests/s", "p50, ms", "p99, ms", "CPU, ms a request", "memory, MiB"]
    heads += ["grown, KiB a request", "failures", "generator, CPUs"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for line in figures:
        cells = [line.contestant, line.load, f"{line.rate:,.0f}" if line.rate >= 100 else f"{line.rate:.1f}"]
        cells += [f"{line.p50_ms:.2f}", f"{line.p99_ms:.2f}", f"{line.cpu_ms:.3f}", f"{line.rss_mib:.0f}"]
        cells += [f"{line.grown_kib:.2f}", f"{line.failures:.0f}", f"{line.generator_share:.2f}"]
        print(f"| {' | '.join(cells)} |")


def print_criteria(figures: Sequence[Figures], *, tiny: bool, cpus: int, precision: Precision) -> None:
    """One line for each criterion that was measured, for each form of the service."""
    found = {(line.contestant, line.load): line for line in figures}
    for name in dict.fromkeys(line.contestant for line in figures if line.contestant.startswith(_OURS)):
        lines = _of_tiny(found, name, cpus) if tiny else _of_real(found, name, precision)
        for what, value, limit, at_least in lines:
            holds = value >= limit if at_least else value <= limit
            word = "at least" if at_least else "at most"
            print(f"{name}: {what} {word} {limit:,g}: {value:,.2f}: {'holds' if holds else 'misses'}")


Criterion = tuple[str, float, float, bool]
"""What, the figure, its limit, and whether that is the least (or else the most) that is good."""


def _of_tiny(found: dict[tuple[str, str], Figures], name: str, cpus: int) -> Iterator[Criterion]:
    busy, lone, bare = found.get((name, _AT_CLIENTS)), found.get((name, _LONE)), found[BARE, _LONE]
    others = [line for line in found.values() if line.contestant.startswith(LITSERVE) and line.load == _AT_CLIENTS]
    if busy:
        yield f"requests/s, {_AT_CLIENTS}, {cpus} CPUs,", busy.rate, _RATE_PER_CPU * cpus, True
        for other in others:
            what = f"times the requests/s of {other.contestant}, {_AT_CLIENTS},"
            yield what, busy.rate / other.rate, _LITSERVE_RATIO, True
        yield f"ms of CPU a request, {_AT_CLIENTS},", busy.cpu_ms, _CPU_MS, False
    if lone:
        yield "ms of a lone request's p50 beyond the network's", lone.p50_ms - bare.p50_ms, _LONE_MS, False


def _of_real(found: dict[tuple[str, str], Figures], name: str, precision: Precision) -> Iterator[Criterion]:
    peaks = {
        contestant: max(line.rate for line in found.values() if line.contestant == contestant)
        for contestant in (name, BARE)
    }
    yield "of the bare runtime's throughput", peaks[name] / peaks[BARE], _SHARE_OF_BARE, True
    busy = found.get((name, _AT_CLIENTS))
    if busy and precision == "int8":
        yield "ms of CPU an inspection", busy.cpu_ms, _INT8_CPU_MS, False
    for load in _AT_LOAD:
        steady = found.get((name, load))
        if steady:
            yield f"times p50 is p99 at {load},", steady.p99_ms / steady.p50_ms, _TAIL_RATIO, False


def draw(figures: Sequence[Figures], path: Path, title: str) -> None:
    """Requests a second, times and CPU by number of clients."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = (("requests/s", "rate"), ("CPU, ms a request", "cpu_ms"), ("p50, ms", "p50_ms"), ("p99, ms", "p99_ms"))
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    closed = [line for line in figures if line.load.split()[1].startswith("client")]
    for name in dict.fromkeys(line.contestant for line in closed):
        lines = [line for line in closed if line.contestant == name]
        clients = [int(line.load.split()[0]) for line in lines]
        for axis, (_, attribute) in zip(axes.flat, panels, strict=True):
            axis.plot(clients, [getattr(line, attribute) for line in lines], marker="o", label=name)
    ticks = sorted({int(line.load.split()[0]) for line in closed})
    for axis, (label, attribute) in zip(axes.flat, panels, strict=True):
        axis.set(xlabel="clients", ylabel=label, xscale="log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        if attribute.startswith("p"):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(f"{title}, closed loop")
    figure.savefig(path, dpi=120)
    plt.close(figure)
