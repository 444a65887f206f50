import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.load import ClockSetError, Load, Pace, beat, closed_loop, find_pace, open_loop, parse_result, repeated

OUTPUT = """Running 2s test @ http://127.0.0.1:8000/v1/inspections
  1 threads and 16 connections
  4012 requests in 2.00s, 1.35MB read
  Non-2xx or 3xx responses: 7
Requests/sec:   2004.11
RESULT {"requests":4012,"seconds":2.001885,"p50_ms":7.9100,"p99_ms":16.2000,"refused":7,"broken":2,"late":1}
"""


def answer(requests: int, seconds: float) -> str:
    return (
        f'RESULT {{"requests":{requests},"seconds":{seconds},"p50_ms":1,"p99_ms":2,"refused":0,"broken":0,"late":0}}\n'
    )


class FakeWrk:
    """Remembers how it was called, and answers a result."""

    def __init__(self, output: str, code: int = 0) -> None:
        self.commands: list[list[str]] = []
        self._output = output
        self._code = code

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        return subprocess.CompletedProcess(command, self._code, self._output, "unable to connect")


def replace_wrk(monkeypatch: pytest.MonkeyPatch, output: str, code: int = 0) -> FakeWrk:
    wrk = FakeWrk(output, code)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/wrk")
    monkeypatch.setattr(subprocess, "run", wrk)
    return wrk


def test_the_result_is_found_among_what_the_generator_prints() -> None:
    found = parse_result(OUTPUT, 0.25)
    assert found == Load(4012, 2.001885, p50_ms=7.91, p99_ms=16.2, failures=10, generator_cpu_s=0.25)
    assert found.rate == pytest.approx(4002 / 2.001885)


def test_output_without_a_result_is_refused() -> None:
    with pytest.raises(ValueError, match="no result"):
        parse_result("unable to connect to 127.0.0.1:1 Connection refused\n", 0.0)


def test_failures_do_not_count_as_answers_however_many() -> None:
    assert Load(3, 1.0, 1.0, 1.0, failures=5, generator_cpu_s=0.0).rate == 0


def test_a_missing_generator_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="apt-get install wrk"):
        closed_loop("http://127.0.0.1:1/", [], 1, 1)


def test_a_generator_that_fails_ends_the_benchmark_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_wrk(monkeypatch, "", code=1)
    with pytest.raises(SystemExit, match="unable to connect"):
        closed_loop("http://127.0.0.1:1/", [], 1, 1)


def test_a_closed_loop_has_a_connection_for_each_client_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    wrk = replace_wrk(monkeypatch, OUTPUT)
    closed_loop("http://host/", [Path("a.png"), Path("b.png")], 16, 2)
    (command,) = wrk.commands
    assert command[command.index("--connections") + 1] == "16"
    assert command[command.index("--duration") + 1] == "2s"
    assert command[-5:] == ["--", "loop", "0.000", "a.png", "b.png"]


def test_an_open_loop_pauses_on_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    wrk = replace_wrk(monkeypatch, OUTPUT)
    open_loop("http://host/", [Path("a.png")], Pace(100, 0.25), 2)
    (command,) = wrk.commands
    assert command[command.index("--connections") + 1] == "100"
    assert command[-3:] == ["pauses", "250.000", "a.png"]


def test_a_beat_has_its_distance_whatever_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    wrk = replace_wrk(monkeypatch, OUTPUT)
    beat("http://host/", [Path("a.png")], 80, 40, 2)
    (command,) = wrk.commands
    assert command[command.index("--connections") + 1] == "40"
    assert command[-3:] == ["beat", "12.500", "a.png"]


def test_a_pace_allows_for_the_time_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    # 60 a second from 90 connections would be pauses of 1.5 s; 50 came, for every answer takes 0.3 s.
    replace_wrk(monkeypatch, answer(150, 3.0))
    pace = find_pace("http://host/", [], 60)
    assert pace.connections == 90
    assert pace.pause_s == pytest.approx(1.2)


def test_a_server_that_cannot_keep_the_pace_is_asked_as_often_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_wrk(monkeypatch, answer(0, 3.0))
    assert 0 < find_pace("http://host/", [], 60).pause_s < 0.01


def test_a_measurement_during_which_the_clock_was_set_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_wrk(monkeypatch, answer(400, 64.0))
    with pytest.raises(ClockSetError, match=r"4 s took 64\.0 s"):
        closed_loop("http://host/", [], 1, 4)


def test_a_void_measurement_is_repeated_but_not_for_ever() -> None:
    failures = [ClockSetError("set"), ClockSetError("set")]

    def measure() -> str:
        if failures:
            raise failures.pop()
        return "measured"

    assert repeated(measure) == "measured"

    def void() -> str:
        raise ClockSetError("set")

    with pytest.raises(SystemExit, match="clock was set"):
        repeated(void)
