"""Inspections as the service records them: server-sent events, resumed wherever they broke off."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import ValidationError

from service.client.answers import InspectionEvent, InspectionPage
from service.client.calls import Calls, read_whole
from service.client.errors import NoAnswerError, NotEvaluated, ServiceError
from service.client.records import list_request
from service.client.requests import Request
from service.client.responses import check_status, read_answer
from service.client.retries import Attempts

_SILENCE_S: Final = 45.0
"""The service says every 15 s that it is alive."""
_AGAIN_AFTER_S: Final = 1.0
_BEFORE_ALL: Final = "0" * 26
_LONGEST_LINE: Final = 16 * 2**20


async def follow(calls: Calls, last_event_id: str | None) -> AsyncGenerator[InspectionEvent]:
    """Every inspection after that one, in order, none twice and none left out, for as long as it is iterated.

    Without an id: every one that is recorded from now on. A connection that ends is made anew where it broke off.

    Raises:
        ProblemError: The service refuses.
        ServiceError: There was no connection for as long as a call may take.
    """
    last = await _newest(calls) if last_event_id is None else last_event_id
    attempts = Attempts(calls.retries, calls.timeout_s)
    while True:
        connected = False
        try:
            attempts.begin()
            async with calls.streaming(_request(last), _SILENCE_S) as response:
                if response.status_code != 200:
                    check_status(await read_whole(response))
                connected = True
                async for event in _events(response):
                    last = event.id
                    yield event
            raise NoAnswerError("the stream of events ended", again=True)
        except ServiceError as error:
            if connected:  # however long it lasted: the next one has all the time again, but does not come at once
                attempts = Attempts(calls.retries, calls.timeout_s)
                attempts.begin()
                error.retry_after_s = _AGAIN_AFTER_S
            await calls.pause_after(error, attempts)


async def _newest(calls: Calls) -> str:
    """The id that what is recorded from now on comes after, so that a first connection may fail as well."""
    page = await calls.read(list_request({}, limit=1), lambda response: read_answer(response, InspectionPage))
    return page.items[0].id if page.items else _BEFORE_ALL


def _request(last: str) -> Request:
    return Request("GET", "/v1/events", headers={"Accept": b"text/event-stream", "Last-Event-ID": last.encode()})


@dataclass(slots=True)
class _Fields:
    """The fields of an event that is not complete yet."""

    kind: str = ""
    data: str | None = None


async def _events(response: httpx.Response) -> AsyncIterator[InspectionEvent]:
    """The inspections of a stream; what breaks off in the middle is none."""
    fields = _Fields()
    async for line in _lines(response):
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                fields.kind = value
            elif name == "data":
                fields.data = value if fields.data is None else f"{fields.data}\n{value}"
            continue
        if fields.kind == "inspection" and fields.data is not None:
            yield _read(fields.data)
        fields = _Fields()


def _read(data: str) -> InspectionEvent:
    try:
        return InspectionEvent.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise NotEvaluated(f"no clear event: {error.errors(include_url=False)[0]['msg']}", status=200) from error


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Without their ends; only line feeds end them here, with or without a carriage return."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
        if len(rest) > _LONGEST_LINE:
            raise NotEvaluated(f"a line of the stream has more than {_LONGEST_LINE} bytes", status=200)
