"""What the client makes of servers that misbehave: a verdict or a typed error, and never a pass by accident."""

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import GOOD

from service.client import (
    AsyncInspectionClient,
    BusyError,
    DeadlinePassedError,
    InspectionClient,
    NoAnswerError,
    NotEvaluated,
    ProblemError,
    Retries,
    ServiceError,
    Tls,
    Verdict,
)
from service.examples import PROBLEMS, REPLY
from service.server import bind

PASS = {**REPLY, "result": 1, "verdict": "pass", "score": 0.5, "regions": []}
ASKED: dict[str, Any] = {"trigger": 123, "station": "s1", "lot": "L7", "serial": "A0001"}
"""What `REPLY` answers."""
QUICK = Retries(first_pause_s=0.001, longest_pause_s=0.002)

Answer = httpx.Response | Exception


def answer(body: object = PASS, status: int = 200, kind: str = "application/json", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, content=content, headers={"Content-Type": kind, **named})


def busy(status: int = 503, retry_after: str = "0") -> httpx.Response:
    name = "not ready" if status == 503 else "overloaded"
    document = {**PROBLEMS["draining" if status == 503 else name], "status": status}
    return answer(document, status, "application/problem+json", Retry_After=retry_after)


class Told(httpx.MockTransport):
    """Answers in turn what it was told to, the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = iter(itertools.chain(answers, itertools.repeat(answers[-1])))
        super().__init__(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        told = next(self._answers)
        if isinstance(told, Exception):
            raise told
        return httpx.Response(told.status_code, content=told.content, headers=told.headers)


def ask(told: httpx.AsyncBaseTransport, retries: Retries = QUICK, **options: Any) -> Verdict:
    with InspectionClient("http://station", transport=told, retries=retries, timeout_s=20) as client:
        return client.inspect(GOOD, **{**ASKED, **options})


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


@pytest.mark.parametrize(
    "failure",
    [
        busy(503), busy(429), answer(b"<html>", 503, "text/html"), httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"), httpx.ReadTimeout("slow"), httpx.ReadError("reset"),
        httpx.WriteError("reset"), httpx.RemoteProtocolError("cut"), ConnectionResetError("reset"),
    ],
    ids=lambda failure: failure.status_code if isinstance(failure, httpx.Response) else type(failure).__name__,
)  # fmt: skip
def test_passing_failure_is_tried_again_as_the_same_request(failure: Answer) -> None:
    told = Told(failure, failure, answer({**PASS, "serial": None, "replayed": True}))
    verdict = ask(told, serial=None)
    assert verdict.passed
    assert verdict.replayed
    assert len(told.requests) == 3
    assert len({request.headers["Idempotency-Key"] for request in told.requests}) == 1
    assert {request.content for request in told.requests} == {GOOD}


@pytest.mark.parametrize("name", [name for name, problem in PROBLEMS.items() if problem["status"] not in {429, 503}])
def test_other_problem_is_not_tried_again(name: str) -> None:
    problem = PROBLEMS[name]
    told = Told(answer(problem, problem["status"], "application/problem+json", Retry_After="0"), answer())
    with pytest.raises(ProblemError):
        ask(told)
    assert len(told.requests) == 1


def test_every_call_without_a_key_has_one_of_its_own() -> None:
    told = Told(answer({**PASS, "serial": None}))
    ask(told, serial=None)
    ask(told, serial=None)
    assert len({request.headers["Idempotency-Key"] for request in told.requests}) == 2


def test_part_is_its_own_key() -> None:
    told = Told(answer())
    ask(told)
    ask(told, idempotency_key="mine")
    assert [request.headers.get("Idempotency-Key") for request in told.requests] == [None, "mine"]


def test_number_of_retries_is_kept() -> None:
    told = Told(busy())
    with pytest.raises(BusyError, match=r"shutting down \(asked 4 times\)") as caught:
        ask(told, Retries(most=3, first_pause_s=0.001, longest_pause_s=0.002))
    assert (caught.value.attempts, len(told.requests)) == (4, 4)


@pytest.mark.parametrize("retry_after", ["60", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_nobody_waits_for_what_comes_too_late(retry_after: str) -> None:
    told = Told(busy(retry_after=retry_after))
    with pytest.raises(BusyError) as caught:
        ask(told, deadline_ms=20_000)
    assert len(told.requests) == 1
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 60


@pytest.mark.parametrize("retry_after", ["soon", "-1", "", "1e3", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_retry_after_that_says_nothing_is_no_obstacle(retry_after: str) -> None:
    assert ask(Told(busy(retry_after=retry_after), answer())).passed


def test_what_is_left_of_the_deadline_is_sent_with_every_attempt() -> None:
    told = Told(busy(), busy(), answer())
    ask(told, Retries(first_pause_s=0.01, longest_pause_s=0.02), deadline_ms=5000)
    sent = [int(request.url.params["deadline_ms"]) for request in told.requests]
    assert sent == sorted(sent, reverse=True)
    assert len(set(sent)) == 3
    assert 0 < sent[-1] < sent[0] <= 5000


def test_key_and_names_are_sent() -> None:
    told = Told(answer())
    with InspectionClient("http://station/line4/", transport=told, api_key=" secret\n") as client:
        client.inspect(GOOD, **ASKED)
    [request] = told.requests
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.url.path == "/line4/v1/inspections"


def test_picture_that_is_none() -> None:
    for told in (answer(b"", kind="image/png"), answer(b"<html>", kind="text/html"), answer(b"PNG", 206, "image/png")):
        with InspectionClient("http://station", transport=Told(told)) as client, pytest.raises(NotEvaluated):
            client.overlay("01JD8Z7Q4N5R6S7T8V9W0X1Y2Z")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:80a", "http://[::1", "127.0.0.1:8000", "ftp://station", "http://", ""]
)
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(ServiceError) as caught:
        InspectionClient(url)
    assert f"{url} is no address" in str(caught.value)


@pytest.mark.parametrize("name", ["missing.pem", "empty.pem"])
def test_certificate_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.pem").touch()
    for tls in (Tls(ca=tmp_path / name), Tls(certificate=tmp_path / name)):
        with pytest.raises(ServiceError, match="cannot be used"):
            InspectionClient("https://station", tls=tls)


# From here on the network is real, and the server is not even one of HTTP.

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BODY = json.dumps(PASS).encode()
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
Script = Callable[[socket.socket], None]


@contextmanager
def raw_server(*scripts: Script) -> Iterator[str]:
    """Takes each connection's request in and does what the script says, the last one again and again."""
    end = threading.Event()

    def serve(listener: socket.socket) -> None:
        for number in itertools.count():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if end.is_set():
                    return
                _take_request(connection)
                with suppress(OSError):  # the client has hung up
                    scripts[min(number, len(scripts) - 1)](connection)

    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        address = listener.getsockname()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            end.set()
            socket.create_connection(address).close()
            thread.join()


def _take_request(connection: socket.socket) -> None:
    taken = b""
    while b"\r\n\r\n" not in taken:
        chunk = connection.recv(65536)
        if not chunk:
            return
        taken += chunk
    head, _, body = taken.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    while len(body) < length and (chunk := connection.recv(65536)):
        body += chunk


def sends(*pieces: bytes, every_s: float = 0.0) -> Script:
    def script(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(every_s)

    return script


def hangs(connection: socket.socket) -> None:
    connection.recv(1)  # until the client hangs up


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def trickles(connection: socket.socket) -> None:
    for byte in itertools.chain(WHOLE[:-1], itertools.repeat(0x20)):
        connection.sendall(bytes([byte]))
        time.sleep(0.01)


def trickles_a_head(connection: socket.socket) -> None:
    for byte in itertools.chain(HEAD + b"X-Long: ", itertools.repeat(0x20)):
        connection.sendall(bytes([byte]))
        time.sleep(0.01)


def flows_without_end(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")
    while True:
        connection.sendall(b" " * 2**20)


CUT: dict[str, Script] = {
    "at once": sends(),
    "reset": resets,
    "in the status": sends(b"HTTP/1.1 2"),
    "in the head": sends(HEAD),
    "before the body": sends(WHOLE[: -len(BODY)]),
    "in the body": sends(WHOLE[:-1]),
    "in a chunk": sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(BODY) + 1) + BODY),
    "before the last chunk": sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n"),
    "no HTTP": sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
}


def ask_over_network(url: str, retries: Retries = QUICK, **options: Any) -> Verdict:
    with InspectionClient(url, retries=retries, timeout_s=20) as client:
        return client.inspect(GOOD, **{**ASKED, **options})


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_cut_answer_is_asked_for_again(cut: Script) -> None:
    with raw_server(cut, cut, sends(WHOLE)) as url:
        assert ask_over_network(url).passed


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_answer_that_is_always_cut_is_none(cut: Script) -> None:
    with raw_server(cut) as url, pytest.raises(NoAnswerError) as caught:
        ask_over_network(url, Retries(most=2, first_pause_s=0.001))
    assert (caught.value.result, caught.value.status, caught.value.attempts) == (0, None, 3)


@pytest.mark.parametrize("script", [hangs, trickles, trickles_a_head, flows_without_end], ids=lambda one: one.__name__)
def test_answer_that_never_ends_is_cut_by_the_deadline(script: Script) -> None:
    with raw_server(script) as url, pytest.raises(DeadlinePassedError) as caught:
        ask_over_network(url, deadline_ms=150)
    assert (caught.value.result, caught.value.code, caught.value.status) == (0, 41, None)


def test_pass_that_comes_too_late_is_none() -> None:
    def late(connection: socket.socket) -> None:
        time.sleep(0.2)
        connection.sendall(WHOLE)

    with raw_server(late) as url, pytest.raises(DeadlinePassedError):
        ask_over_network(url, deadline_ms=100)


def test_attempt_that_hangs_is_given_up_for_another() -> None:
    with raw_server(hangs, sends(WHOLE)) as url:
        assert ask_over_network(url, Retries(first_pause_s=0.001, attempt_s=0.3)).passed
    with raw_server(hangs) as url, pytest.raises(NoAnswerError, match=r"within 0\.05 s"):
        ask_over_network(url, Retries(most=1, first_pause_s=0.001, attempt_s=0.05))


def test_body_without_a_length_that_is_complete() -> None:
    with raw_server(sends(HEAD + b"Connection: close\r\n\r\n", BODY)) as url:
        assert ask_over_network(url).passed
    with raw_server(sends(HEAD + b"Connection: close\r\n\r\n", BODY[:-1])) as url, pytest.raises(NotEvaluated):
        ask_over_network(url)


def test_nobody_listens() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoAnswerError, match=f"no answer from http://127.0.0.1:{port}"):
        ask_over_network(f"http://127.0.0.1:{port}", Retries(most=1, first_pause_s=0.001))


def test_cancelled_call_ends(recwarn: pytest.WarningsRecorder) -> None:
    async def scenario() -> None:
        with raw_server(hangs) as url:
            async with AsyncInspectionClient(url) as client:
                call = asyncio.create_task(client.inspect(GOOD))
                await asyncio.sleep(0.05)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

    asyncio.run(scenario())
    assert not recwarn.list
