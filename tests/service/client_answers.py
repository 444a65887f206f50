"""Answers for the client under test, told to it in place of a service."""

import itertools
import json
from typing import Any

import httpx
from serving import GOOD

from service.client import InspectionClient, Retries, Verdict
from service.examples import PROBLEMS, REPLY

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
