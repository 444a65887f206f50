import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from client_answers import ASKED, PASS, Answer, Told, answer, ask, busy
from serving import GOOD

from service.client import BusyError, DeadlinePassedError, InspectionClient, ProblemError, Retries, ServiceError, Tls
from service.client.retries import Attempts
from service.examples import PROBLEMS


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


def test_pass_that_was_late_in_this_process_is_none() -> None:
    def stall(_: httpx.Request) -> httpx.Response:
        time.sleep(0.1)  # the event loop stands still, so that no timeout of its own can fire
        return answer()

    with pytest.raises(DeadlinePassedError) as caught:
        ask(httpx.MockTransport(stall), deadline_ms=50)
    assert (caught.value.code, caught.value.status, caught.value.attempts) == (41, None, 1)


def test_key_and_names_are_sent() -> None:
    told = Told(answer())
    with InspectionClient("http://station/line4/", transport=told, api_key=" secret\n") as client:
        client.inspect(GOOD, **ASKED)
    [request] = told.requests
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.url.path == "/line4/v1/inspections"


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


class Clock:
    """Time that stands still unless it is told to pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def failure(retry_after_s: float | None = None) -> ServiceError:
    return ServiceError("busy", again=True, retry_after_s=retry_after_s)


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_pauses_double_up_to_the_longest_and_vary(chance: float, share: float) -> None:
    retries = Retries(first_pause_s=0.1, longest_pause_s=0.5)
    attempts = Attempts(retries, 60, clock=Clock(), chance=lambda: chance)
    pauses = []
    for _ in range(5):
        attempts.begin()
        pauses.append(attempts.pause_after(failure()))
    assert pauses == pytest.approx([share * full for full in (0.1, 0.2, 0.4, 0.5, 0.5)])


def test_retry_after_is_the_least_pause_and_not_the_same_for_all() -> None:
    pauses = set()
    for chance in (0.0, 0.3, 0.9):
        attempts = Attempts(Retries(first_pause_s=0.2), 60, clock=Clock(), chance=partial(float, chance))
        attempts.begin()
        pauses.add(attempts.pause_after(failure(retry_after_s=3)))
    assert len(pauses) == 3
    assert 3 <= min(pauses) < max(pauses) <= 3.1


def test_pause_that_would_reach_the_deadline_is_not_made() -> None:
    clock = Clock()
    attempts = Attempts(Retries(first_pause_s=0.1), 1.0, clock=clock, chance=lambda: 1.0)
    attempts.begin()
    clock.now += 0.85
    assert attempts.pause_after(failure()) == pytest.approx(0.1)
    clock.now += 0.1
    last = failure()
    with pytest.raises(ServiceError) as caught:
        attempts.pause_after(last)
    assert caught.value is last
    clock.now += 0.06
    with pytest.raises(DeadlinePassedError, match="within 1 s; the attempt before: busy"):
        attempts.begin()


def test_attempt_is_allowed_what_is_left_or_its_own_limit() -> None:
    clock = Clock()
    attempts = Attempts(Retries(attempt_s=0.4), 1.0, clock=clock)
    assert attempts.begin() == 0.4
    assert not isinstance(attempts.timed_out(0.4), DeadlinePassedError)
    clock.now += 0.7
    allowed_s = attempts.begin()
    assert allowed_s == pytest.approx(0.3)
    assert isinstance(attempts.timed_out(allowed_s), DeadlinePassedError)
    assert attempts.left_ms() == 300


def test_what_cannot_help_is_not_repeated() -> None:
    attempts = Attempts(Retries(), 60, clock=Clock())
    attempts.begin()
    with pytest.raises(ServiceError, match="garbage"):
        attempts.pause_after(ServiceError("garbage"))
