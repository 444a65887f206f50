import json
from typing import Any

import httpx
import pytest
from client_answers import ASKED, PASS, Told, answer, ask
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import GOOD

from service.client import InspectionClient, NotEvaluated, ProblemError, Retries, ServiceError, calls
from service.client.requests import InspectionRequest
from service.client.responses import Response, read_verdict
from service.examples import PROBLEMS, REPLY

UNCLEAR: dict[str, httpx.Response] = {
    "empty": answer(b""),
    "garbage": answer(b"\x00\xff{"),
    "half": answer(json.dumps(PASS).encode()[:-20]),
    "null": answer(b"null"),
    "list": answer([PASS]),
    "nothing in it": answer({}),
    "only a result": answer({"result": 1}),
    "no content": answer(b"", 204),
    "accepted": answer(PASS, 202),
    "moved": answer(PASS, 302, Location="/elsewhere"),
    "wrong type": answer(PASS, kind="text/html"),
    "no type": answer(PASS, kind=""),
    "line": answer(b"1;0;123;500000;01JD8Z7Q4N5R6S7T8V9W0X1Y2Z\n", kind="text/plain"),
    "html": answer(b"<html>It works</html>", kind="text/html"),
    "gateway": answer(b"<html>502</html>", 502, "text/html"),
    "pass in an error": answer(PASS, 500),
    "problem in a success": answer(PROBLEMS["draining"], 200),
    "problem of another status": answer(PROBLEMS["text"], 500, "application/problem+json"),
    "problem with a pass": answer({**PROBLEMS["engine failed"], "result": 1}, 500, "application/problem+json"),
    "picture not base64": answer({**PASS, "heatmap": "%%%"}),
    **{
        f"{name} {value!r}": answer({**PASS, name: value})
        for name, value in (
            *(("result", 0), ("result", 2), ("result", 3), ("result", 4), ("result", 5), ("result", "1")),
            *(("result", True), ("result", 1.0), ("result", None), ("code", 50), ("code", None), ("v", 2)),
            *(("verdict", "fail"), ("verdict", "review"), ("verdict", "not_evaluated"), ("verdict", "PASS")),
            *(("score", None), ("score", 1.5), ("score", float("nan")), ("score", "0.5"), ("score", -float("inf"))),
            *(("threshold", float("nan")), ("threshold", float("inf")), ("threshold", None)),
            *(("trigger", 122), ("trigger", None), ("trigger", "123"), ("station", "s2"), ("serial", "A0002")),
            *(("serial", None), ("lot", "L8"), ("id", None), ("replayed", None)),
        )
    },
    **{
        f"without {name}": answer({key: value for key, value in PASS.items() if key != name})
        for name in PASS
        if name != "v"
    },
}


@pytest.mark.parametrize("unclear", UNCLEAR.values(), ids=UNCLEAR)
def test_unclear_answer_is_not_evaluated_and_not_asked_again(unclear: httpx.Response) -> None:
    told = Told(unclear, answer())
    with pytest.raises(NotEvaluated) as caught:
        ask(told)
    assert (caught.value.result, caught.value.status, caught.value.attempts) == (0, unclear.status_code, 1)
    assert len(told.requests) == 1


def test_clear_answer_is_a_verdict() -> None:
    assert ask(Told(answer())).passed
    assert ask(Told(answer({**PASS, "more": "in a later version"}))).passed
    assert ask(Told(answer({**PASS, "score": 1.0000004, "threshold": 1.0}))).passed
    assert not ask(Told(answer(REPLY))).passed
    assert not ask(Told(answer({**REPLY, "result": 4, "verdict": "review"}))).passed


def test_answer_larger_than_any_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_LARGEST_BODY", len(answer().content) - 1)
    with pytest.raises(NotEvaluated, match="more than"):
        ask(Told(answer()))


def test_verdict_by_another_recipe_is_none() -> None:
    assert ask(Told(answer()), recipe="tec-grain").passed
    with pytest.raises(NotEvaluated, match="recipe 'tec-grain', and the request about 'nut'"):
        ask(Told(answer()), recipe="nut")


def test_verdict_has_no_truth_value() -> None:
    verdict = ask(Told(answer(REPLY)))
    with pytest.raises(TypeError, match="passed"):
        bool(verdict)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_is_a_typed_error(name: str) -> None:
    problem = PROBLEMS[name]
    with pytest.raises(ProblemError) as caught:
        ask(Told(answer(problem, problem["status"], "application/problem+json")), Retries(most=0))
    error = caught.value
    told = (error.result, error.code, error.status, error.detail, error.trigger, error.field, error.id)
    keys = ("result", "code", "status", "detail", "trigger", "field", "id")
    assert told == tuple(problem.get(key) for key in keys)
    assert problem["detail"] in str(error)


def test_code_of_a_later_version_is_a_problem() -> None:
    document = {**PROBLEMS["text"], "code": 77, "status": 418}
    with pytest.raises(ProblemError) as caught:
        ask(Told(answer(document, 418)))
    assert (type(caught.value), caught.value.code) == (ProblemError, 77)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 130)
    | st.floats()
    | st.sampled_from(["pass", "fail", "1", "", "A0001"]),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(list(PASS)), values, max_size=2),
    max_leaves=4,
)
CHANGES = st.dictionaries(st.sampled_from(list(PASS)), JSON_VALUES, max_size=3)
MISSING = st.sets(st.sampled_from(list(PASS)), max_size=2)
STATUSES = st.sampled_from([200, 200, 200, 201, 206, 302, 404, 429, 500, 503])
TYPES = st.sampled_from(["application/json", "application/json; charset=utf-8", "text/plain", "text/html", ""])


@given(changes=CHANGES, missing=MISSING, status=STATUSES, kind=TYPES, cut=st.integers(0, 40))
@settings(max_examples=500, deadline=None)
def test_only_a_true_pass_passes(changes: dict[str, Any], missing: set[str], status: int, kind: str, cut: int) -> None:
    told = {name: value for name, value in {**PASS, **changes}.items() if name not in missing}
    body = json.dumps(told).encode()
    body = body[: len(body) - max(0, cut - 30)]
    try:
        verdict = read_verdict(Response(status, {"content-type": kind}, body), InspectionRequest(GOOD, **ASKED))
    except ServiceError as error:
        assert error.result in {0, 3}  # noqa: PT017
        return
    assert (status, kind[:16], json.loads(body)) == (200, "application/json", told)
    assert verdict.passed == (told["verdict"] == "pass")
    decided = {"pass": 1, "fail": 2, "review": 4}[told["verdict"]]
    assert (told["result"], type(told["result"]), told["code"]) == (decided, int, 0)
    assert {name: told[name] for name in ASKED} == ASKED
    assert not verdict.passed or told["score"] <= told["threshold"] + 1e-6


@given(body=st.binary(max_size=60), status=STATUSES, kind=TYPES)
def test_garbage_is_never_a_verdict(body: bytes, status: int, kind: str) -> None:
    with pytest.raises(ServiceError):
        read_verdict(Response(status, {"content-type": kind}, body), InspectionRequest(GOOD, **ASKED))


def test_name_of_an_inspection_is_one_step_of_the_path() -> None:
    told = Told(answer(b"PNG", kind="image/png"))
    with InspectionClient("http://station", transport=told) as client:
        client.heatmap("../../readyz?a=b")
    assert told.requests[0].url.raw_path == b"/v1/inspections/..%2F..%2Freadyz%3Fa%3Db/heatmap.png"


def test_picture_that_is_none() -> None:
    for told in (answer(b"", kind="image/png"), answer(b"<html>", kind="text/html"), answer(b"PNG", 206, "image/png")):
        with InspectionClient("http://station", transport=Told(told)) as client, pytest.raises(NotEvaluated):
            client.overlay("01JD8Z7Q4N5R6S7T8V9W0X1Y2Z")
