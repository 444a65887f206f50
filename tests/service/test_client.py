import base64
import re

import pytest
from serving import DEFECTIVE, GOOD, Line

from service.client import Client, InspectionError, ServiceError
from service.server import bind


def test_reply_is_typed_and_fields_arrive(line: Line) -> None:
    with Client(line.url) as client:
        reply = client.inspect(
            DEFECTIVE, recipe="tec-grain", station="s1", lot="L", serial="A", trigger=3, deadline_ms=20_000
        )
        assert (reply.verdict, reply.score, reply.result, reply.regions[0].peak) == ("fail", 1.5625, 2, 1.5625)
        assert (reply.recipe, reply.station, reply.lot, reply.serial, reply.trigger) == ("tec-grain", "s1", "L", "A", 3)
        assert reply.heatmap is None
        assert client.overlay(reply.id).startswith(b"\x89PNG")


def test_picture_and_key(line: Line) -> None:
    with Client(line.url) as client:
        first = client.inspect(GOOD, heatmap="overlay", idempotency_key="k")
        assert base64.b64decode(first.heatmap or "").startswith(b"\x89PNG")
        second = client.inspect(GOOD, idempotency_key="k")
        assert (second.id, second.replayed) == (first.id, True)


def test_problem_is_raised_with_its_detail(line: Line) -> None:
    with Client(line.url) as client:
        with pytest.raises(InspectionError, match=r"code 10.*not a JPEG") as caught:
            client.inspect(b"hello", trigger=4)
        assert (caught.value.problem.status, caught.value.problem.trigger) == (400, 4)
        line.station.begin_drain()
        with pytest.raises(InspectionError, match="shutting down") as caught:
            client.inspect(GOOD)
        assert caught.value.retry_after_s == 1


def test_nobody_answers() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServiceError, match=f"127.0.0.1:{port}"):
        client.inspect(GOOD)


@pytest.mark.parametrize("url", ["http://127.0.0.1:80a", "http://[::1", "127.0.0.1:8000"])
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(ServiceError, match=re.escape(url)), Client(url) as client:
        client.inspect(GOOD)


def test_something_else_answers(line: Line) -> None:
    with Client(f"{line.url}/docs?") as client, pytest.raises(ServiceError):
        client.inspect(GOOD)
