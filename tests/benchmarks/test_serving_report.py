from pathlib import Path

import pytest

from benchmarks.serving_report import BARE, LITSERVE, Figures, draw, median_of, print_criteria, print_table

OURS = "this service, 1 process"


def figures(contestant: str, load: str, rate: float, p50_ms: float = 5.0, cpu_ms: float = 0.5) -> Figures:
    return Figures(contestant, load, rate, p50_ms, 2 * p50_ms, cpu_ms, 100.0, 0.1, 0, 0.05)


TINY = [
    figures(BARE, "1 client", 10_000, p50_ms=0.1),
    figures(OURS, "1 client", 900, p50_ms=1.05),
    figures(OURS, "16 clients", 3_500),
    figures(LITSERVE, "16 clients", 1_000),
]


def test_figures_are_medians_over_rounds_in_the_order_of_contestants() -> None:
    rounds = [
        figures(OURS, "1 client", 100),
        figures(BARE, "1 client", 9),
        figures(OURS, "1 client", 900),
        figures(OURS, "16 clients", 5),
        figures(OURS, "1 client", 200),
    ]
    found = [(line.contestant, line.load, line.rate) for line in median_of(rounds)]
    assert found == [(OURS, "1 client", 200), (OURS, "16 clients", 5), (BARE, "1 client", 9)]


def test_every_criterion_says_its_figure_and_whether_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    print_criteria(TINY, tiny=True, cpus=4, precision="float32")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{OURS}: requests/s, 16 clients, 4 CPUs, at least 3,400: 3,500.00: holds",
        f"{OURS}: times the requests/s of LitServe, 16 clients, at least 5: 3.50: misses",
        f"{OURS}: ms of CPU a request, 16 clients, at most 0.75: 0.50: holds",
        f"{OURS}: ms of a lone request's p50 beyond the network's at most 1: 0.95: holds",
    ]


def test_half_the_processors_need_half_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    print_criteria([TINY[0], figures(OURS, "16 clients", 1_699)], tiny=True, cpus=2, precision="float32")
    assert "2 CPUs, at least 1,700: 1,699.00: misses" in capsys.readouterr().out


def test_a_real_network_is_held_against_the_bare_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        figures(BARE, "1 client", 25),
        figures(BARE, "4 clients", 100),
        figures(OURS, "16 clients", 94, cpu_ms=40),
        figures(OURS, "80% at random", 75),
    ]
    print_criteria(lines, tiny=False, cpus=4, precision="int8")
    assert capsys.readouterr().out.splitlines() == [
        f"{OURS}: of the bare runtime's throughput at least 0.95: 0.94: misses",
        f"{OURS}: ms of CPU an inspection at most 41: 40.00: holds",
        f"{OURS}: times p50 is p99 at 80% at random, at most 2.5: 2.00: holds",
    ]


def test_the_table_has_a_cell_for_every_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(TINY)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(TINY)
    assert len({line.count("|") for line in lines}) == 1


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw([*TINY, figures(OURS, "80% at random", 5)], tmp_path / "plot.png", "tiny")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
