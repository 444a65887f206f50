"""Every program explains itself, and ends in one line where its input is missing."""

import importlib
import sys
from pathlib import Path

import pytest

from benchmarks.program import run_program

MISSING = {
    "agreement": ["nowhere", "nowhere"],
    "archive": ["--directory", "nowhere"],
    "backbones": ["random", "--data", "nowhere"],
    "calibration_study": ["nowhere", "nowhere"],
    "cost": ["--bundle", "nowhere/1"],
    "drift_study": ["images", "nowhere"],
    "kill": ["--bundle", "nowhere/1"],
    "precision": ["nowhere", "nowhere"],
    "records": ["--var", "nowhere"],
    "runtime": ["--bundle", "nowhere/1"],
}
"""Arguments that name something that is not there; `serving` and `soak` look for their load generator first."""
FOLDER = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if '"__main__"' in path.read_text(encoding="utf-8"))


def ended(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments])
    with pytest.raises(SystemExit) as end:
        run_program(importlib.import_module(f"benchmarks.{program}").main)
    return end.value.code


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(program, ["--help"], monkeypatch) == 0
    assert capsys.readouterr().out.startswith(f"usage: {program}.py")


@pytest.mark.parametrize("program", MISSING)
def test_missing_input_is_one_line(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended(program, MISSING[program], monkeypatch) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "nowhere" in line


def test_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("records", ["--postgres", "postgresql://nobody@127.0.0.1:1/nothing"], monkeypatch) == 2
    assert "cannot be used as the record database" in capsys.readouterr().err


@pytest.mark.parametrize(("program", "arguments"), [("kill", ["--workers", "1"]), ("soak", ["--minutes", "0"])])
def test_too_little_is_a_wrong_option(
    program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(program, arguments, monkeypatch) == 2
    assert arguments[0] in capsys.readouterr().err


def test_what_nobody_foresaw_is_raised() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_program(main)
