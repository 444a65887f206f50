import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from invoking import atsnet

from cli.inspection import ServiceInspector
from service.client import BusyError, NotEvaluated
from service.examples import PROBLEMS, REPLY


@pytest.fixture
def good(grains: Path) -> Path:
    return grains / "test" / "good" / "000.png"


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    (tmp_path / "notes.png").write_text("not an image")
    return tmp_path / "notes.png"


def rows_of(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("local", [True, False])
def test_one_bad_file_does_not_stop_the_others(
    bundle: Path, request: pytest.FixtureRequest, good: Path, text_file: Path, tmp_path: Path, local: bool
) -> None:
    how = ("--local", "--bundle", bundle) if local else ("--url", request.getfixturevalue("service_url"))
    missing = tmp_path / "missing.png"
    result = atsnet("inspect", missing, text_file, good, *how, "--json")
    assert result.exit_code == 10
    rows = rows_of(result.stdout)
    assert [row["file"] for row in rows] == [str(missing), str(text_file), str(good)]
    assert [row["verdict"] == "not_evaluated" for row in rows] == [True, True, False]
    assert "No such file" in str(rows[0]["error"])
    assert "not a JPEG" in str(rows[1]["error"])
    assert rows[2]["score"]


def test_table_has_a_row_a_file_and_a_total(bundle: Path, good: Path, text_file: Path) -> None:
    result = atsnet("inspect", good, text_file, "--local", "--bundle", bundle)
    assert "1 not_evaluated" in result.stdout
    assert "2 images" in result.stdout
    assert result.stdout.count("not_evaluated") == 2


def test_exit_code_0_is_every_part_passed(bundle: Path, grains: Path) -> None:
    result = atsnet("inspect", grains / "train" / "good", "--local", "--bundle", bundle, "--json")
    passed = [row["file"] for row in rows_of(result.stdout) if row["verdict"] == "pass"]
    assert passed
    assert atsnet("inspect", *passed, "--local", "--bundle", bundle).exit_code == 0


def test_overlays_of_the_same_name_do_not_replace_each_other(bundle: Path, grains: Path, tmp_path: Path) -> None:
    files = [grains / "test" / label / "000.png" for label in ("good", "crack")]
    atsnet("inspect", *files, "--local", "--bundle", bundle, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000_overlay.png", "000_overlay_2.png"}


def test_station_and_lot_are_recorded(service_url: str, good: Path) -> None:
    result = atsnet("inspect", good, "--url", service_url, "--station", "s7", "--lot", "L9", "--json")
    record = httpx.get(f"{service_url}/v1/inspections/{rows_of(result.stdout)[0]['id']}", trust_env=False).json()
    assert (record["station"], record["lot"]) == ("s7", "L9")


def test_service_that_refuses_every_image_alike(service_url: str, good: Path) -> None:
    result = atsnet("inspect", good, good, "--url", service_url, "--recipe", "nut")
    assert result.exit_code == 6
    assert "there is no recipe 'nut'" in result.stderr


def test_no_service(good: Path) -> None:
    result = atsnet("inspect", good, "--url", "http://127.0.0.1:9", "--json")
    assert result.exit_code == 6
    assert "no answer from http://127.0.0.1:9" in result.stderr
    assert result.stdout == ""


def test_busy_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, verdict = PROBLEMS["overloaded"], REPLY
    answers = [(429, busy), (429, busy), (200, verdict | {"trigger": None, "serial": None})]
    with service_of(monkeypatch, answers) as inspector:
        inspected, _ = inspector.inspect("a.png", b"...", overlay=False)
    assert (inspected.verdict, inspected.score) == ("fail", REPLY["score"])
    assert answers == []


def test_service_that_stays_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        service_of(monkeypatch, [(429, PROBLEMS["overloaded"])] * 6) as inspector,
        pytest.raises(BusyError, match=r"limit.*asked 6 times"),
    ):
        inspector.inspect("a.png", b"...", overlay=False)


@pytest.mark.parametrize("name", ["text", "too many pixels", "tiny image", "deadline passed", "engine failed"])
def test_problem_of_one_image_is_no_problem_of_the_next(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    problem = PROBLEMS[name]
    with service_of(monkeypatch, [(problem["status"], problem)]) as inspector:
        inspected, picture = inspector.inspect("a.png", b"...", overlay=True)
    assert (inspected.verdict, inspected.score, picture) == ("not_evaluated", None, None)
    assert problem["detail"] in str(inspected.error)


def test_unclear_answer_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    with service_of(monkeypatch, [(200, {"result": 1})]) as inspector, pytest.raises(NotEvaluated):
        inspector.inspect("a.png", b"...", overlay=False)


@pytest.mark.parametrize("key", ["of the environment", None])
def test_api_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, good: Path, key: str | None) -> None:
    sent: list[str | None] = []

    def answer(self: httpx.MockTransport, request: httpx.Request) -> httpx.Response:  # noqa: ARG001
        sent.append(request.headers.get("Authorization"))
        return httpx.Response(422, json=PROBLEMS["tiny image"])

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", as_coroutine(answer))
    if key is not None:
        monkeypatch.setenv("ATSNET_API_KEY", key)
    assert atsnet("inspect", good, "--url", "http://station").exit_code == 10
    assert sent == [None if key is None else f"Bearer {key}"]


def test_certificate_that_is_missing(good: Path, tmp_path: Path) -> None:
    result = atsnet("inspect", good, "--url", "https://station", "--tls-ca", tmp_path / "none.pem")
    assert result.exit_code == 6
    assert "none.pem" in result.stderr


def service_of(monkeypatch: pytest.MonkeyPatch, answers: list[tuple[int, dict[str, Any]]]) -> ServiceInspector:
    """An inspector whose service gives these answers, one a request."""

    def answer(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:  # noqa: ARG001
        status, body = answers.pop(0)
        return httpx.Response(status, json=body, headers={"Retry-After": "0"})

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", as_coroutine(answer))
    return ServiceInspector("http://station", recipe=None, station="s1", lot="L7")


def as_coroutine(function: Callable[..., httpx.Response]) -> Callable[..., Awaitable[httpx.Response]]:
    async def answer(*arguments: Any) -> httpx.Response:
        return function(*arguments)

    return answer


def test_not_a_number_is_never_a_verdict(bundle: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli.inspection import open_bundle

    with open_bundle(bundle) as inspector:
        nan = np.full((1, 16, 16), np.nan, np.float32)
        monkeypatch.setattr(inspector._runtime, "run", lambda _: (nan[:, 0, 0], nan))
        inspected, picture = inspector.inspect("a.png", good.read_bytes(), overlay=True)
    assert (inspected.verdict, inspected.score, picture) == ("not_evaluated", None, None)


@pytest.mark.parametrize("option", [("--lot", "L7"), ("--station", "s1"), ("--recipe", "nut")])
def test_local_keeps_no_records(good: Path, option: tuple[str, str]) -> None:
    assert atsnet("inspect", good, "--local", *option).exit_code == 2


def test_bundle_without_local_is_a_mistake(good: Path, bundle: Path) -> None:
    assert atsnet("inspect", good, "--bundle", bundle).exit_code == 2


def test_bundle_that_is_missing_or_altered(bundle: Path, good: Path, tmp_path: Path) -> None:
    missing = atsnet("inspect", good, "--local", "--bundle", tmp_path / "none")
    assert missing.exit_code == 4
    assert str(tmp_path / "none") in missing.stderr
    shutil.copytree(bundle, tmp_path / "altered")
    with (tmp_path / "altered" / "model.onnx").open("ab") as file:
        file.write(b"!")
    altered = atsnet("inspect", good, "--local", "--bundle", tmp_path / "altered")
    assert altered.exit_code == 4
    assert "is not the file that was validated" in altered.stderr


def test_folder_without_images(bundle: Path, tmp_path: Path) -> None:
    result = atsnet("inspect", tmp_path, "--local", "--bundle", bundle)
    assert result.exit_code == 3
    assert str(tmp_path) in result.stderr
