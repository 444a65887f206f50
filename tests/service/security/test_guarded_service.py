"""The whole service behind its gate, in one process and as worker and engine."""

import http.client
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from serving import DEFECTIVE, GOOD, Line, running, wait_until
from typer.testing import CliRunner

from cli.main import app as command
from service.client import InspectionClient, NotAllowedError
from service.problems import ProblemDocument
from service.runtimes.fake import FakeRuntime
from service.security.key_file import add, revoke
from service.security.keys import KeyLine, new_key
from service.security.roles import ACCESS, ROLES, Role
from service.settings import Settings

SECOND = timedelta(seconds=1)
KEYS = {role: new_key(f"a-{role}", role, now=datetime.now(UTC)) for role in ROLES}
EXPIRED = new_key("old", "engineer", now=datetime.now(UTC) - 2 * SECOND, expires=datetime.now(UTC) - SECOND)
UNKNOWN = new_key("stranger", "engineer", now=datetime.now(UTC))[0]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def write(file: Path, *lines: KeyLine) -> Path:
    for line in lines:
        add(file, line)
    return file


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return write(tmp_path / "keys.jsonl", *(line for _, line in KEYS.values()), EXPIRED[1])


@pytest.fixture
def guarded(settings: Settings, runtime: FakeRuntime, apart: bool, key_file: Path) -> Iterator[Line]:
    with running(settings.model_copy(update={"api_keys_file": key_file}), runtime, apart=apart) as line:
        yield line


def samples(line: Line, key: str = KEYS["line"][0]) -> dict[str, float]:
    """What was counted of requests, by the labels; not what a station's counters begin with."""
    text = line.http.get("/metrics", headers=bearer(key)).text
    counted = re.findall(r"^inspect_requests_total\{(.*)\} (\S+)$", text, re.M)
    return {name: float(value) for name, value in counted if float(value)}


def test_loopback_is_open(line: Line) -> None:
    assert line.post().json()["verdict"] == "pass"
    assert line.http.get("/metrics").status_code == 200
    for name in ("localhost", "127.0.0.1:1234", "[::1]:8000"):
        assert line.post(headers={"Host": name}).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}], ids=str
)
def test_pages_of_other_sites_are_refused(line: Line, headers: dict[str, str]) -> None:
    for response in (line.post(headers=headers), line.http.get("/metrics", headers=headers)):
        assert (response.status_code, response.json()["code"]) == (403, 30)


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "send an API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "send an API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`"),
        (bearer("nonsense"), "the API key is not known here"),
        (bearer(UNKNOWN), "the API key is not known here"),
        (bearer(KEYS["line"][0][:-1]), "the API key is not known here"),
        (bearer(EXPIRED[0]), f"the key {EXPIRED[1].id} of 'old' is expired or revoked"),
    ],
    ids=["none", "Basic", "nonsense", "unknown", "too short", "expired"],
)
def test_who_has_no_key_inspects_nothing(guarded: Line, headers: dict[str, str], detail: str) -> None:
    response = guarded.post(DEFECTIVE, {"trigger": 123, "station": "press-9"}, headers=headers)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == 'Bearer realm="atsnet"'
    document = ProblemDocument.model_validate(response.json())
    assert (document.result, document.code, document.status, document.trigger) == (0, 30, 401, 123)
    assert document.detail == detail
    in_one_line = guarded.post(DEFECTIVE, {"trigger": 123}, headers={**headers, "Accept": "text/plain"})
    assert (in_one_line.status_code, in_one_line.text) == (401, "0;30;123;;\n")
    assert guarded.station.in_flight == 0


@pytest.mark.parametrize("role", ["line", "operator", "engineer"])
def test_every_role_but_one_inspects(guarded: Line, role: str) -> None:
    key = KEYS[role][0]
    for headers in (bearer(key), {"Authorization": f"bearer  {key}"}, {"X-API-Key": key}):
        assert guarded.post(DEFECTIVE, {"trigger": 1}, headers=headers).json()["verdict"] == "fail"


def test_who_reads_the_metrics_can_do_no_more(guarded: Line) -> None:
    headers = bearer(KEYS["monitor"][0])
    assert guarded.http.get("/metrics", headers=headers).status_code == 200
    refused = guarded.post(headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, 30)


def test_refusals_take_no_label_of_a_station(guarded: Line) -> None:
    for number in range(100):
        assert guarded.post(GOOD, {"station": f"made-up-{number}"}).status_code == 401
    guarded.post(GOOD, {"station": "press-3"}, headers=bearer(KEYS["line"][0]))
    wait_until(lambda: sum(samples(guarded).values()) == 101)
    assert samples(guarded) == {'outcome="unauthorized",station=""': 100, 'outcome="pass",station="press-3"': 1}


def test_body_is_not_asked_for_before_the_key_is_known(guarded: Line) -> None:
    connection = http.client.HTTPConnection(guarded.http.base_url.netloc.decode(), timeout=30)
    connection.putrequest("POST", "/v1/inspections")
    connection.putheader("Content-Length", str(10**12))
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    assert connection.getresponse().status == 401  # neither 100 nor 413
    connection.close()


def probed(line: Line, method: str, path: str, key: str | None) -> int:
    """The status of a request without a body, to a route of which nothing exists."""
    path = re.sub(r"\{\w+\}", "none", path)
    # Events come without end: the head of an answer is enough.
    with line.http.stream(method, path, headers={} if key is None else bearer(key)) as response:
        return response.status_code


def test_every_route_takes_its_role(guarded: Line) -> None:
    paths: dict[str, Any] = guarded.http.get("/openapi.json").json()["paths"]
    rules = {re.sub(r"\{\w+\}", "{}", rule): role for rule, role in ACCESS.items()}
    routes = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    assert ("POST", "/v1/inspections") in routes
    for method, path in routes:
        least = rules[f"{method} {re.sub(r'{[^}]*}', '{}', path)}"]
        if least is Role.ANYONE:
            assert probed(guarded, method, path, None) not in {401, 403}
            continue
        assert probed(guarded, method, path, None) == 401
        for word, role in ROLES.items():
            status = probed(guarded, method, path, KEYS[word][0])
            assert status == 403 if role < least else status not in {401, 403}, f"{word}: {method} {path}"


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/secrets", 401), ("/v1/inspections/", 401), ("//v1/inspections", 401), ("/docs/", 401)]
)
def test_what_is_no_route_is_closed(guarded: Line, path: str, status: int) -> None:
    assert guarded.http.post(path).status_code == status
    assert guarded.http.post(path, headers=bearer(KEYS["operator"][0])).status_code == 403


def test_keys_come_and_go_without_a_restart(guarded: Line, key_file: Path) -> None:
    key, new = new_key("press-3", "line", now=datetime.now(UTC))
    assert guarded.post(headers=bearer(key)).status_code == 401
    add(key_file, new)
    wait_until(lambda: guarded.post(headers=bearer(key)).status_code == 200)
    revoke(key_file, new.id, datetime.now(UTC))
    wait_until(lambda: guarded.post(headers=bearer(key)).status_code == 401)
    key_file.write_text("nonsense")
    assert guarded.post(headers=bearer(KEYS["line"][0])).status_code == 200


@pytest.mark.parametrize("with_keys", [True, False])
def test_too_many_requests_are_refused(
    settings: Settings, runtime: FakeRuntime, apart: bool, key_file: Path, with_keys: bool
) -> None:
    limits = {"rate_limit": 0.01, "rate_burst": 3, "api_keys_file": key_file if with_keys else None}
    with running(settings.model_copy(update=limits), runtime, apart=apart) as line:
        answers = [line.post(GOOD, {"trigger": 7}, headers=bearer(KEYS["line"][0])) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        problem = answers[-1].json()
        assert (problem["result"], problem["code"], problem["trigger"]) == (0, 40, 7)
        assert int(answers[-1].headers["retry-after"]) in {99, 100}
        another = line.post(headers=bearer(KEYS["operator"][0]))
        assert another.status_code == (200 if with_keys else 429)
        assert line.http.get("/livez").status_code == 200


def test_answers_to_browsers_forbid_what_is_not_needed(guarded: Line) -> None:
    page = guarded.http.get("/docs")
    assert page.status_code == 200
    assert "script-src 'self' 'sha256-" in page.headers["content-security-policy"]
    for path in ("/livez", "/metrics", "/v1/inspections/none", "/nowhere"):
        headers = guarded.http.get(path, headers=bearer(KEYS["engineer"][0])).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")


def test_client_and_command_show_their_key(guarded: Line, tmp_path: Path) -> None:
    with InspectionClient(guarded.url, api_key=KEYS["line"][0]) as client:
        assert client.inspect(DEFECTIVE, station="s1").verdict == "fail"
    with InspectionClient(guarded.url) as client, pytest.raises(NotAllowedError):
        client.inspect(DEFECTIVE)
    (tmp_path / "part.png").write_bytes(GOOD)
    asked = ["inspect", str(tmp_path / "part.png"), "--url", guarded.url]
    shown = CliRunner().invoke(command, asked, env={"ATSNET_API_KEY": KEYS["line"][0]})
    assert shown.exit_code == 0, shown.output
    assert CliRunner().invoke(command, asked).exit_code == 6
