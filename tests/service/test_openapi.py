"""The examples of the OpenAPI document are answers that the service really gives."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from serving import DEFECTIVE, GOOD, Line, encode, running, wait_until
from test_bad_input import png_claiming

from service.examples import PROBLEMS, REPLY, REPLY_QUERY
from service.fields import FIELD_NAMES
from service.problems import ProblemDocument
from service.reply import Reply
from service.runtimes.fake import FakeRuntime
from service.security.roles import Role, least_role
from service.settings import Settings

TRIGGER = {"trigger": 123}


SETTINGS: dict[str, dict[str, Any]] = {"no key": {"api_keys": ""}, "too often": {"rate_limit": 0.01, "rate_burst": 1}}
"""Of the services that have a problem which others do not have."""


@pytest.fixture
def served(settings: Settings, runtime: FakeRuntime, name: str) -> Iterator[tuple[Line, FakeRuntime]]:
    with running(settings.model_copy(update=SETTINGS.get(name, {})), runtime) as line:
        yield line, runtime


def document(line: Line) -> dict[str, Any]:
    openapi: dict[str, Any] = line.http.get("/openapi.json").json()
    return openapi["paths"]["/v1/inspections"]["post"]


def alike(value: object) -> object:
    """What is left of an answer without what differs from one to the next."""
    if isinstance(value, dict):
        return {key: alike(item) for key, item in value.items() if key not in {"ms", "timing_ms"}}
    if isinstance(value, str):
        value = re.sub(r"\d+\.\d+ ms", "T ms", re.sub(r"in \d+ s\b", "in T s", value))
        return re.sub(r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", "ID", value)
    return value


def test_example_reply(line: Line) -> None:
    shown = document(line)["responses"]["200"]["content"]
    assert shown["application/json"]["example"] == REPLY
    reply = line.post(DEFECTIVE, REPLY_QUERY).json()
    assert list(reply) == list(REPLY)
    assert list(reply["timing_ms"]) == list(REPLY["timing_ms"])
    assert alike(reply) == alike(REPLY)
    line_reply = line.post(DEFECTIVE, {"trigger": 123}, headers={"Accept": "text/plain"}).text
    assert alike(line_reply) == alike(shown["text/plain"]["example"])


def overloaded(line: Line, runtime: FakeRuntime) -> httpx.Response:
    runtime.block()
    with ThreadPoolExecutor(65) as pool:
        for _ in range(65):
            pool.submit(line.post, GOOD)
        wait_until(lambda: line.station.in_flight == 65)
        refused = line.post(GOOD, TRIGGER)
        runtime.release()
    return refused


def draining(line: Line, _: FakeRuntime) -> httpx.Response:
    line.front.begin_drain()
    return line.post(GOOD, TRIGGER)


def key_reused(line: Line, _: FakeRuntime) -> httpx.Response:
    line.post(DEFECTIVE, REPLY_QUERY)
    return line.post(GOOD, REPLY_QUERY)


def too_often(line: Line, _: FakeRuntime) -> httpx.Response:
    line.post(GOOD)
    return line.post(GOOD, TRIGGER)


def late(line: Line, runtime: FakeRuntime) -> httpx.Response:
    runtime.block()
    return line.post(GOOD, {**TRIGGER, "deadline_ms": 20})


def engine_failed(line: Line, runtime: FakeRuntime) -> httpx.Response:
    runtime.fail_next(RuntimeError())
    return line.post(GOOD, TRIGGER)


CAUSES: dict[str, Callable[[Line, FakeRuntime], httpx.Response]] = {
    "empty body": lambda line, _: line.post(b"", TRIGGER),
    "text": lambda line, _: line.post(b"hello", TRIGGER),
    "too many pixels": lambda line, _: line.post(png_claiming(10_000, 6_000), TRIGGER),
    "tiny image": lambda line, _: line.post(encode(np.zeros((1, 1), np.uint8)), TRIGGER),
    "wrong field": lambda line, _: line.post(GOOD, {**TRIGGER, "deadline_ms": -1}),
    "unknown recipe": lambda line, _: line.post(GOOD, {**TRIGGER, "recipe": "nut"}),
    "key reused": key_reused,
    "no key": lambda line, _: line.post(GOOD, TRIGGER),
    "page of another site": lambda line, _: line.post(GOOD, TRIGGER, headers={"Origin": "http://elsewhere.example"}),
    "overloaded": overloaded,
    "too often": too_often,
    "draining": draining,
    "deadline passed": late,
    "engine failed": engine_failed,
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_example_problem(served: tuple[Line, FakeRuntime], name: str) -> None:
    line, runtime = served
    example = PROBLEMS[name]
    shown = document(line)["responses"][str(example["status"])]["content"]["application/problem+json"]
    assert shown["examples"][name]["value"] == example
    response = CAUSES[name](line, runtime)
    assert response.status_code == example["status"]
    assert list(response.json()) == list(example)
    assert alike(response.json()) == alike(example)
    ProblemDocument.model_validate(response.json())


def test_examples_fit_their_schemas() -> None:
    assert list(Reply.model_validate(REPLY).document(with_heatmap=False)) == list(REPLY)


def test_errors_are_problems_on_every_route(line: Line) -> None:
    openapi = line.http.get("/openapi.json").json()
    kinds = {
        "application/problem+json": {"$ref": "#/components/schemas/ProblemDocument"},
        "application/json": {"$ref": "#/components/schemas/ErrorDocument"},
    }
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    content = {kind: each["schema"] for kind, each in response["content"].items()}
                    content.pop("text/plain", None)
                    assert content
                    assert content.items() <= kinds.items()
                    # One protocol has errors of its own; what refuses a key knows no protocols.
                    assert ("application/json" in content) <= path.startswith("/v2")
    assert {"Reply", "RecordDocument", "ProblemDocument"} <= set(openapi["components"]["schemas"])
    assert "HTTPValidationError" not in openapi["components"]["schemas"]


def test_refusals_that_end_say_when_to_try_again(line: Line) -> None:
    paths = line.http.get("/openapi.json").json()["paths"]
    refusing = {
        f"{method} {path} {status}"
        for path, operations in paths.items()
        for method, operation in operations.items()
        for status, response in operation["responses"].items()
        if "Retry-After" in response.get("headers", {})
        and not (status == "429" and "security" in operation)  # where keys are asked for, they may be used too often
    }
    record = "/v1/inspections/{inspection_id}"
    assert refusing == {
        "post /v1/inspections 503",
        "post /v1/inspections:batch 503",
        "get /v1/events 503",
        "get /readyz 503",
        "get /v1/recipes 503",
        "post /v1/recipes 503",
        "get /v1/recipes/{name} 503",
        "post /v1/recipes/{name}/activate 503",
        "post /v1/recipes/{name}/preview 503",
        "get /v1/recipes/{name}/drift 503",
        "post /v1/recipes/{name}/drift/reset 503",
        "get /v1/models 503",
        "post /v1/models/self-test 503",
        "post /v1/models/{name}/{version}/activate 503",
        "get /v1/inspections 503",
        "put /v1/inspections/{inspection_id}/review 503",
        *(f"get {record}{picture} 503" for picture in ("", "/image", "/heatmap.png", "/overlay.png")),
    }


def test_routes_say_which_key_they_take(line: Line) -> None:
    openapi = line.http.get("/openapi.json").json()
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            role = least_role(method.upper(), path)
            assert ("security" in operation) == (role is not Role.ANYONE)
            assert ({"401", "403", "429"} <= set(operation["responses"])) == ("security" in operation)
            if role is not Role.ANYONE:
                assert "Retry-After" in operation["responses"]["429"]["headers"]
                assert operation["description"].endswith(f"Least role: `{role.word}`.")
                assert {name for scheme in operation["security"] for name in scheme} == set(
                    openapi["components"]["securitySchemes"]
                )


def test_problems_in_one_line_are_described(line: Line) -> None:
    responses = document(line)["responses"]
    assert all("text/plain" in response["content"] for response in responses.values())


def test_every_field_is_described(line: Line) -> None:
    operation = document(line)
    query = {parameter["name"]: parameter for parameter in operation["parameters"] if parameter["in"] == "query"}
    assert tuple(query) == FIELD_NAMES
    assert all(parameter["schema"].get("type") or parameter["schema"].get("enum") for parameter in query.values())
    assert set(operation["requestBody"]["content"]) == {"image/*", "application/octet-stream", "multipart/form-data"}


def test_the_pages_bring_their_own_scripts_and_styles(line: Line) -> None:
    page = line.http.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    assert all(source.startswith("/") for source in sources), sources
    assert all(line.http.get(source).status_code == 200 for source in sources)
