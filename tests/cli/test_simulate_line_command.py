import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from invoking import atsnet, program, without_training

from cli.main import app
from service.examples import PROBLEMS, REPLY

FEW = ("--pictures", 6, "--size", 64)
Answering = Callable[[httpx.Request], httpx.Response]
HaveAnswered = Callable[[Answering], list[httpx.Request]]


@pytest.fixture
def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> HaveAnswered:
    """Has inspections answered by a function; every service is ready."""

    def by(answer: Answering) -> list[httpx.Request]:
        asked: list[httpx.Request] = []

        async def handle(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:  # noqa: ARG001
            if request.url.path == "/readyz":
                return httpx.Response(200, json={"status": "ready", "bundle": "b/1", "digest": "0"})
            asked.append(request)
            return answer(request)

        monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
        return asked

    return by


def verdict_on(request: httpx.Request, **changes: Any) -> httpx.Response:
    fields = dict(request.url.params)
    named = {name: fields[name] for name in ("station", "lot", "serial")}
    return httpx.Response(200, json={**REPLY, **named, "trigger": int(fields["trigger"]), **changes})


def refused(problem: str) -> httpx.Response:
    return httpx.Response(PROBLEMS[problem]["status"], json=PROBLEMS[problem])


def test_real_service_without_torch(tmp_path: Path, free_url: str) -> None:
    code, out, error = without_training(
        "simulate-line", "--serve", tmp_path / "var", "--url", free_url, "--rate", "50/s", "--count", 20,
        "--stations", 2, "--burst", 5, "--defective", 0.5, "--repeat", 0.5, "--pictures", 10,
        "--deadline-ms", 60_000, "--json",
    )  # fmt: skip
    assert code == 0, error
    summary = json.loads(out)
    assert (summary["posted"], summary["under_way"], summary["pictures"]) == (20, 0, 10)
    assert sum(counts[word] for counts in summary["truth"].values() for word in ("pass", "review", "fail")) == 20
    assert summary["repeats"]["sent"] == summary["repeats"]["checked"] > 0
    assert summary["repeats"]["contradicted"] == 0
    assert [station["verdicts"]["none"] for station in summary["stations"].values()] == [0, 0]
    inspected = (tmp_path / "var" / "serve.log").read_text()
    assert summary["run"] in inspected
    assert '"event":"stopped"' in inspected


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_with_the_summary(tmp_path: Path, free_url: str, told: signal.Signals) -> None:
    command = program(
        "simulate-line", "--serve", tmp_path / "var", "--url", free_url, *FEW, "--size", 256, "--json", "--seed", 3,
        "--deadline-ms", 60_000, "--rate", "20/s",
    )  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        log = tmp_path / "var" / "serve.log"
        while process.poll() is None and not (log.exists() and "SIM-" in log.read_text()):
            time.sleep(0.05)
        os.killpg(process.pid, told)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    summary = json.loads(out)
    assert (summary["unanswered"], summary["under_way"]) == (0, 0)
    assert summary["posted"] > 0


def test_service_does_not_outlive_a_line_that_is_ended_early(tmp_path: Path, free_url: str) -> None:
    command = program("simulate-line", "--serve", tmp_path / "var", "--url", free_url, *FEW)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (tmp_path / "var" / "serve.log").exists():
            time.sleep(0.01)
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode in {0, 130}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{free_url}/livez", trust_env=False)


def test_address_that_is_none_to_serve_at(tmp_path: Path) -> None:
    result = atsnet("simulate-line", *FEW, "--serve", tmp_path / "var", "--url", "https://station")
    assert result.exit_code == 6
    assert "no address to serve at" in result.stderr


def test_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = atsnet("simulate-line", "--serve", tmp_path / "var", "--url", url, *FEW, "--count", 1)
    assert result.exit_code == 6
    assert "choose another port" in result.stderr


def test_tables(answered: HaveAnswered) -> None:
    answered(lambda request: verdict_on(request, score=1.5))
    result = atsnet("simulate-line", *FEW, "--count", 4, "--stations", 2, "--defective", 0, "--rate", "1000/s")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["sim-1", "2"] in [row[:2] for row in rows]
    assert ["good", "4", "0", "0", "4", "0", "0.0%"] in rows
    assert "agreement 0.0%: 4 good parts did not pass" in result.stdout


def test_unanswered_parts_are_a_fault(answered: HaveAnswered) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    answered(answer)
    result = atsnet("simulate-line", *FEW, "--count", 2, "--deadline-ms", 50, "--json")
    assert result.exit_code == 11
    assert json.loads(result.stdout)["unanswered"] == 2


def test_contradiction_is_a_fault(answered: HaveAnswered) -> None:
    asked = answered(lambda request: verdict_on(request, score=1 + len(asked) / 1000, replayed=True))
    result = atsnet("simulate-line", *FEW, "--count", 3, "--repeat", 1, "--rate", "1000/s")
    assert result.exit_code == 11
    assert len(asked) == 6
    assert "contradicted 3" in result.stdout


def test_refusal_of_every_part(answered: HaveAnswered) -> None:
    answered(lambda _: refused("no key"))
    result = atsnet("simulate-line", *FEW, "--rate", "1/min", "--json")
    assert result.exit_code == 6
    assert "API key" in result.stderr
    assert json.loads(result.stdout)["refused"] == {"30": 1}


def test_key_and_fields_arrive(answered: HaveAnswered) -> None:
    asked = answered(verdict_on)
    atsnet("simulate-line", *FEW, "--count", 2, "--recipe", "tec-grain", "--api-key", "k", "--defect", "pit")
    assert {request.headers["Authorization"] for request in asked} == {"Bearer k"}
    assert {request.url.params["recipe"] for request in asked} == {"tec-grain"}


@pytest.mark.parametrize(("rate", "wanted"), [("5", 5), ("5/s", 5), ("30/min", 0.5)])
def test_rates(answered: HaveAnswered, rate: str, wanted: float) -> None:
    answered(verdict_on)
    result = atsnet("simulate-line", *FEW, "--count", 1, "--rate", rate, "--json")
    assert json.loads(result.stdout)["parts_per_s_wanted"] == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        ("--rate", "0"), ("--rate", "5/day"), ("--rate", "fast"), ("--rate", "nan"), ("--defect", "dent"),
        ("--pictures", "3"), ("--defective", "1.5"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_options(wrong: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert atsnet("simulate-line", "--size", 64, "--pictures", 6, *wrong).exit_code == 2


def test_nobody_listens(free_url: str) -> None:
    result = atsnet("simulate-line", *FEW, "--url", free_url, "--wait", 0.2)
    assert result.exit_code == 6
    assert "no answer from" in result.stderr


def test_document_lists_the_options_and_their_defaults() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "simulated-line.md").read_text()
    table = guide[guide.index("| option | default |") :].partition("\n\n")[0]
    listed: dict[str, str] = {}
    for row in table.splitlines()[2:]:
        names, defaults = (cell.strip() for cell in row.split("|")[1:3])
        values = [value.strip("` ") for value in defaults.split(",")]
        listed.update(itertools.zip_longest(re.findall(r"--[a-z-]+", names), values, fillvalue=""))
    command = typer.main.get_command(app).commands["simulate-line"]  # type: ignore[attr-defined]
    offered = {parameter.opts[0]: parameter.default for parameter in command.params}
    assert set(listed) | {"--url"} == set(offered)
    for name, default in listed.items():
        value = offered[name]
        if default not in ("", "all"):
            assert default == (f"{value:g}" if isinstance(value, float) else str(value)), name
