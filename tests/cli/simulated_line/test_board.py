import io

import pytest
from made_parts import presented, verdict
from rich.console import Console

from cli.simulated_line import Summary, Tally
from cli.simulated_line import board as board_module
from cli.simulated_line.board import Display, board
from service.client import BusyError, NoAnswerError


@pytest.fixture
def summary() -> Summary:
    tally = Tally("SIM-1", 2.0, ("sim-1", "sim-2"), 20)
    for each in (
        presented(verdict("pass"), latency_s=0.0125),
        presented(verdict("fail"), verdict("fail", replayed=True), defect="crack", station="sim-2", latency_s=2.5),
        presented(BusyError("full", code=40, status=429), defect="pit"),
        presented(NoAnswerError("nobody listens"), latency_s=0.0125),
    ):
        tally.posted += 1
        tally.add(each, 1.0)
    return tally.summary(2.0, whole=True)


def shown(summary: Summary, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(board(summary))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_board_shows_every_figure_in_eighty_columns(summary: Summary) -> None:
    text = shown(summary)
    rows = [line.split() for line in text.splitlines()]
    assert ["sim-1", "3", "0.50", "1", "0", "0", "2", "12.5", "12.5", "12.5", "12.5"] in rows
    assert ["sim-2", "1", "0.50", "0", "0", "1", "0", "2500", "2500", "2500", "2500"] in rows
    assert ["all", "4", "1.00", "1", "0", "1", "2"] in [row[:7] for row in rows]
    assert ["good", "2", "1", "0", "0", "1", "100.0%"] in rows
    assert ["pit", "1", "0", "0", "0", "1", "-"] in rows
    assert "…" not in text
    for words in (
        "1.00 of 2 parts/s",
        "agreement 100.0%",
        "1 of code 40",
        "posted twice 1, compared 1",
        "unanswered 1",
    ):
        assert words in text
    assert "nobody listens" in text


def test_terminal_shows_the_board_in_place(summary: Summary) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=50)
    with Display(console) as display:
        display.show(summary)
        display.show(summary)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("by station") >= 2
    assert "\x1b[2K" in text


def test_log_gets_a_line_now_and_then(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Display(console) as display:
        display.show(summary)
        assert console.file.getvalue() == ""  # type: ignore[attr-defined]
        monkeypatch.setattr(board_module, "_SECONDS_BETWEEN_LINES", 0.0)
        display.show(summary)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith("2 s: 4 parts, 1.0/s, p50 ")
    assert text.endswith("1 refused, 1 wrong, agreement 100.0%\n")
