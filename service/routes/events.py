"""Listen to the inspections as they are recorded, and to drift: server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog
from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from service import examples
from service.events import Event, Feed, Subscription
from service.problems import WRONG_FIELD, Problem, ProblemDocument
from service.records.database import RecordError
from service.records.inspection import is_id
from service.routes.station import station_of

log = structlog.get_logger(__name__)
router = APIRouter(tags=["events"])

_MEDIA_TYPE: Final = "text/event-stream"
_HEARTBEAT_S: Final = 15.0
_STALLED_S: Final = 30.0
"""A client that takes nothing in for so long is given up."""

_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_FIRST: Final = b"retry: 1000\n\n"
_ALIVE: Final = b": alive\n\n"
_TOO_SLOW: Final = b": too slow: more was recorded than may wait for you; resume with Last-Event-ID\n\n"
_LEAVING: Final = b": the service is shutting down; resume with Last-Event-ID\n\n"

_LAST_EVENT_ID: Final = "Last-Event-ID"
_EXAMPLE: Final = (
    "retry: 1000\n\nid: 01JD8Z7Q4N5R6S7T8V9W0X1Y2Z\nevent: inspection\n"
    'data: {"v":1,"trigger":123,"result":2,"code":0,"verdict":"fail", ...}\n\n'
    'event: drift\ndata: {"kind":"drifted","recipe":"tec-grain","quantity":"brightness", ...}\n\n'
)
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events, until either side ends them. A comment every 15 s says that the service is alive.",
        "content": {_MEDIA_TYPE: {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    422: {"model": ProblemDocument, "description": WRONG_FIELD.title},
    429: {"model": ProblemDocument, "description": "Too many clients listen", "headers": examples.RETRY_AFTER},
    **examples.NOT_READY,
}
_PARAMETER: Final = {
    "name": _LAST_EVENT_ID,
    "in": "header",
    "description": "Id of the last event that arrived: the stream goes on with the one after it. Browsers send it by "
    "themselves when they connect again.",
    "schema": {"type": "string"},
}


@router.get(
    "/v1/events",
    summary="Listen to the inspections",
    response_class=Response,
    responses=_RESPONSES,
    openapi_extra={"parameters": [_PARAMETER]},
)
async def events(request: Request) -> Response:
    """An event for each inspection, in the order of their ids, after it is on disk: its reply, without a picture.

    An event `drift` says that a recipe's parts have drifted, or are back (`DriftNews`). It has no id, and who was not
    connected is not told later: `GET /v1/recipes/{name}/drift` says how a recipe stands.
    """
    station = station_of(request)
    station.check_ready()
    last = request.headers.get(_LAST_EVENT_ID) or None
    if last is not None and not is_id(last):
        detail = f"{_LAST_EVENT_ID}: {last[:80]!r} is no id of an inspection"
        raise Problem(WRONG_FIELD, detail, extensions={"field": _LAST_EVENT_ID})
    return EventStream(station.feed, last)


class EventStream(Response):
    """Events for one client, until it leaves, is too slow, or the service shuts down.

    Args:
        feed: Where they come from.
        last: Id of the last event that the client has got; `None` begins with what is recorded from now on.
    """

    media_type = _MEDIA_TYPE

    def __init__(self, feed: Feed, last: str | None, headers: Mapping[str, str] = _HEADERS) -> None:
        # Not the base class's, which would announce the length of an empty body.
        self.status_code = 200
        self.background = None
        self.init_headers(headers)
        self._feed = feed
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send them.

        Raises:
            Problem: Code 40: too many clients listen, or there is nothing to read from. Nothing was sent then.
        """
        async with self._feed.subscribe() as subscription:
            watching = asyncio.create_task(_watch(receive, subscription))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await self._serve(subscription, send)
            except TimeoutError:
                log.warning("event_client_stalled", seconds=_STALLED_S)
                return  # what is under way to it will never end: the server closes the connection
            finally:
                watching.cancel()
            await send({"type": "http.response.body", "body": b""})

    async def _serve(self, subscription: Subscription, send: Send) -> None:
        await _write(send, _FIRST)
        if self._last is not None:
            try:
                async for page in self._feed.history(subscription, self._last):
                    if subscription.gone:
                        return
                    await self._write_events(page, send)
            except (RecordError, Problem) as error:
                await _write(send, b": the records cannot be read now; resume with Last-Event-ID\n\n")
                log.warning("events_not_read", reason=str(error))
                return
        await self._serve_live(subscription, send)

    async def _serve_live(self, subscription: Subscription, send: Send) -> None:
        while not subscription.gone:
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    await subscription.woken.wait()
            except TimeoutError:
                await _write(send, _ALIVE)
                continue
            subscription.woken.clear()
            if subscription.overrun:
                await _write(send, _TOO_SLOW)
                return
            await self._write_events(subscription.take(), send)
            if subscription.ended:
                await _write(send, _LEAVING)
                return

    async def _write_events(self, events: list[Event], send: Send) -> None:
        # Another process may have been further than this one when it sent what the client has got.
        new = []
        for event in events:
            if event.id is not None:
                if self._last is not None and event.id <= self._last:
                    continue
                self._last = event.id
            new.append(event.payload)
        if new:
            await _write(send, b"".join(new))


async def _write(send: Send, data: bytes) -> None:
    async with asyncio.timeout(_STALLED_S):
        await send({"type": "http.response.body", "body": data, "more_body": True})


async def _watch(receive: Receive, subscription: Subscription) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    subscription.leave()
