import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest
from client_answers import PASS, QUICK, answer, busy
from serving import DEFECTIVE, GOOD, Line

from service.client import (
    AsyncInspectionClient,
    FieldError,
    InspectionClient,
    InspectionEvent,
    NoAnswerError,
    NotAllowedError,
    NotEvaluated,
    Retries,
    event_stream,
)
from service.examples import PROBLEMS
from service.runtimes.fake import FakeRuntime

FIRST, SECOND = "01JD8Z7Q4N5R6S7T8V9W0X1Y2Y", "01JD8Z7Q4N5R6S7T8V9W0X1Y2Z"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_AGAIN_AFTER_S", 0.0)


def event(inspection_id: str) -> bytes:
    document = orjson.dumps({**PASS, "id": inspection_id})
    return b"id: %b\nevent: inspection\ndata: %b\n\n" % (inspection_id.encode(), document)


class Pieces(httpx.AsyncByteStream):
    """A body that comes in pieces and then ends, or breaks."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


class Streams(httpx.AsyncBaseTransport):
    """Answers in turn; refuses when there is nothing left."""

    def __init__(self, *answers: Pieces | httpx.Response | Exception) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/inspections":
            return answer({"items": [], "next": None})
        self.asked.append(request.headers["Last-Event-ID"])
        told = self._answers.pop(0) if self._answers else answer(PROBLEMS["no key"], 401, "application/problem+json")
        if isinstance(told, Exception):
            raise told
        if isinstance(told, Pieces):
            return httpx.Response(200, stream=told, headers={"Content-Type": "text/event-stream"})
        return told


def heard(streams: Streams, last: str | None = None, retries: Retries = QUICK) -> list[str]:
    """The ids of all events until the service refuses."""
    ids: list[str] = []
    with InspectionClient("http://station", transport=streams, retries=retries) as client:
        events = client.events(last)
        with pytest.raises(NotAllowedError):
            ids.extend(each.id for each in events)
    return ids


def test_events_arrive_in_order(line: Line) -> None:
    with InspectionClient(line.url) as client:
        before = client.inspect(GOOD)
        events = client.events(before.id)
        ids = [client.inspect(DEFECTIVE if number % 2 else GOOD, serial=f"A{number}").id for number in range(4)]
        found = [next(events) for _ in range(4)]
        assert [each.id for each in found] == ids
        assert [each.verdict for each in found] == ["pass", "fail", "pass", "fail"]
        assert [each.passed for each in found] == [True, False, True, False]
        events.close()
        assert next(client.events(ids[1])).id == ids[2]


def test_events_begin_where_the_iteration_does(line: Line) -> None:
    async def scenario() -> None:
        async with AsyncInspectionClient(line.url) as client:
            await client.inspect(GOOD)
            events = client.events()
            first = asyncio.create_task(anext(events))
            while not first.done():  # which one is the first to come later, nobody can say
                latest = await client.inspect(GOOD)
            assert (await first).id <= latest.id
            second = await client.inspect(GOOD)
            while (await anext(events)).id != second.id:
                pass
            await events.aclose()

    asyncio.run(scenario())


class BreaksOff(httpx.AsyncHTTPTransport):
    """A network that loses every connection after the first event."""

    broken = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.url.path == "/v1/events":
            self.broken += 1
            response.stream = UntilTheFirst(response.stream)
        return response


class UntilTheFirst(httpx.AsyncByteStream):
    def __init__(self, whole: httpx.SyncByteStream | httpx.AsyncByteStream) -> None:
        assert isinstance(whole, httpx.AsyncByteStream)
        self._whole = whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = b""
        async for chunk in self._whole:
            read += chunk
            events, end, _ = read.partition(b"}\n\n")
            if end:
                yield events + end
                raise httpx.ReadError("reset")

    async def aclose(self) -> None:
        await self._whole.aclose()


def test_nothing_is_lost_where_connections_break(line: Line) -> None:
    network = BreaksOff()
    with InspectionClient(line.url, transport=network, retries=QUICK) as client:
        before = client.inspect(GOOD)
        ids = [client.inspect(GOOD).id for _ in range(4)]
        events = client.events(before.id)
        assert [next(events).id for _ in ids] == ids
    assert network.broken >= 4


def test_failed_inspection_is_an_event(line: Line, runtime: FakeRuntime) -> None:
    with InspectionClient(line.url) as client:
        before = client.inspect(GOOD)
        runtime.fail_next(RuntimeError("out of order"))
        assert line.post().status_code == 500
        event = next(client.events(before.id))
        assert (event.result, event.verdict, event.passed) == (3, "not_evaluated", False)


def test_id_that_is_none(line: Line) -> None:
    with InspectionClient(line.url) as client, pytest.raises(FieldError):
        next(client.events("nonsense"))


def test_broken_connections_are_resumed() -> None:
    one, two = event(FIRST), event(SECOND)
    streams = Streams(
        Pieces(b"retry: 1000\n\n", one[:20], one[20:], two[:-1]),
        Pieces(httpx.ReadError("reset")),
        httpx.ConnectError("refused"),
        busy(),
        Pieces(b": alive\n\n", two, b"data: half"),
    )
    assert heard(streams) == [FIRST, SECOND]
    assert streams.asked == ["0" * 26, FIRST, FIRST, FIRST, FIRST, SECOND]


def test_resumed_by_the_caller() -> None:
    streams = Streams(Pieces(event(SECOND)))
    assert heard(streams, FIRST) == [SECOND]
    assert streams.asked == [FIRST, SECOND]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_of_any_size(size: int) -> None:
    whole = (event(FIRST) + b": alive\n\n" + event(SECOND)).replace(b"\n", b"\r\n")
    assert heard(Streams(Pieces(*(whole[at : at + size] for at in range(0, len(whole), size))))) == [FIRST, SECOND]


def test_other_events_are_for_others() -> None:
    other = b"event: swap\ndata: {}\n\ndata: {}\n\nevent: inspection\n\n"
    assert heard(Streams(Pieces(other, event(FIRST)))) == [FIRST]


@pytest.mark.parametrize("data", [b"{}", b"garbage", orjson.dumps({**PASS, "verdict": "fail"})])
def test_unclear_event_is_an_error(data: bytes) -> None:
    streams = Streams(Pieces(b"event: inspection\ndata: %b\n\n" % data))
    with InspectionClient("http://station", transport=streams) as client, pytest.raises(NotEvaluated):
        next(client.events(FIRST))
    assert len(streams.asked) == 1


def test_patience_ends() -> None:
    streams = Streams(*[httpx.ConnectError("refused")] * 3)
    retries = Retries(most=2, first_pause_s=0.001)
    with (
        InspectionClient("http://station", transport=streams, retries=retries) as client,
        pytest.raises(NoAnswerError) as caught,
    ):
        next(client.events(FIRST))
    assert caught.value.attempts == 3


def test_patience_begins_anew_with_a_connection() -> None:
    streams = Streams(*[Pieces()] * 5)
    assert heard(streams, FIRST, Retries(most=1, first_pause_s=0.001)) == []
    assert len(streams.asked) == 6


def test_line_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_LONGEST_LINE", 1000)
    streams = Streams(Pieces(*[b"data: " + b"x" * 400] * 3))
    with (
        InspectionClient("http://station", transport=streams) as client,
        pytest.raises(NotEvaluated, match="more than"),
    ):
        next(client.events(FIRST))


def test_client_reads_what_the_service_sends() -> None:
    assert set(InspectionEvent.model_fields) == set(PASS) - {"heatmap"}
