import io

import pytest
from rich.console import Console

from atsnet.progress import ConsoleReporter, silent


def log_console() -> Console:
    return Console(file=io.StringIO(), width=40, force_terminal=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_a_line_every_tenth_and_no_control_characters() -> None:
    console = log_console()
    with ConsoleReporter(console, seconds_between_lines=1e9) as report:
        for done in range(1, 101):
            report("stage 1", done, 100, {"loss": 1 / done})
    lines = text_of(console).splitlines()
    assert [line.split()[2] for line in lines] == [f"{done}/100" for done in range(10, 101, 10)]
    assert lines[0] == "stage 1: 10/100  loss 0.1"
    assert "\x1b" not in text_of(console)


def test_a_line_that_is_longer_than_the_console_stays_one_line_and_brackets_are_no_markup() -> None:
    console = log_console()
    with ConsoleReporter(console, seconds_between_lines=1e9) as report:
        report("loading images of a folder with a long name [red]", 3, 3, {"first": 0.123456, "second": 1e-9})
    expected = "loading images of a folder with a long name [red]: 3/3  first 0.1235  second 1e-09"
    assert text_of(console).splitlines() == [expected]


def test_slow_work_is_heard_of_before_its_tenth_is_done() -> None:
    console = log_console()
    with ConsoleReporter(console, seconds_between_lines=0.0) as report:
        report("training", 1, 1000)
        report("training", 2, 1000)
    assert text_of(console).splitlines() == ["training: 1/1000", "training: 2/1000"]


def test_the_same_work_once_more_is_told_again() -> None:
    console = log_console()
    with ConsoleReporter(console, seconds_between_lines=1e9) as report:
        for _ in range(2):
            for done in (1, 2, 3, 4):
                report("loading", done, 4)
    assert text_of(console).splitlines() == [f"loading: {done}/4" for done in (1, 2, 3, 4)] * 2


def test_tasks_are_counted_each_by_itself_and_an_unknown_total_is_no_error() -> None:
    console = log_console()
    with ConsoleReporter(console, seconds_between_lines=1e9) as report:
        report("one", 10, 10)
        report("two", 1, 10)
        report("download", 5, 0)
    assert text_of(console).splitlines() == ["one: 10/10", "two: 1/10", "download: 5/0"]


def test_a_terminal_gets_bars() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with ConsoleReporter(console) as report:
        report("stage 1", 3, 10, {"loss": 0.25})
        report("stage 2", 1, 10)
    assert "stage 1" in text_of(console)
    assert "3/10" in text_of(console)
    assert "loss 0.25" in text_of(console)
    assert "\x1b" in text_of(console)


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent("stage 1", 1, 2, {"loss": 1.0})
    assert capsys.readouterr() == ("", "")
