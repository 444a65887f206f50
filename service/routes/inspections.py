"""Inspect an image; `records` has what is read back of it."""

import asyncio
import time

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from service import examples
from service.body import BodyReader
from service.disconnect import cancelled_by_disconnect
from service.fields import peek_trigger, url_and_header_fields, validate
from service.inspector import RETRY_AFTER_S
from service.negotiation import result_line, wants_line
from service.problems import DEADLINE_PASSED, NOT_READY, Problem
from service.routes.station import station_of
from service.submission import read_submission

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/inspections", tags=["inspections"])


@router.post(
    "",
    summary="Inspect an image",
    response_class=Response,
    responses=examples.RESPONSES,
    openapi_extra=examples.REQUEST,
)
async def inspect(request: Request) -> Response:
    """Inspect one image and answer its verdict; the record is on disk before the answer leaves."""
    arrival = time.monotonic()
    station = station_of(request)
    body = BodyReader(request, station.settings.max_body_bytes)
    name: str | None = None
    outcome = "failed"
    try:
        request.state.trigger = peek_trigger(request)
        given = url_and_header_fields(request)
        fields = validate(given)
        name = fields.station
        with station.admitted():
            submission = await read_submission(
                request, body, given, fields, arrival=arrival, default_deadline_ms=station.settings.deadline_ms
            )
            name = submission.fields.station
            reply = await station.equipment.inspector.inspect(submission, cancelled_by_disconnect(request.receive))
        outcome = "replayed" if reply.replayed else reply.verdict
    except Problem as problem:
        outcome = problem.kind.slug
        if problem.kind is DEADLINE_PASSED:
            station.metrics.deadline_missed()
        log.warning("refused", code=problem.kind.code, status=problem.kind.status, detail=problem.detail, station=name)
        await body.discard()
        raise
    except ClientDisconnect:
        outcome = "client-gone"
        log.warning("client_gone", station=name)
        return Response(status_code=499)
    except asyncio.CancelledError:  # the server stops, and its patience is at an end
        outcome = NOT_READY.slug
        detail = "the service shut down before the inspection was finished"
        raise Problem(NOT_READY, detail, retry_after_s=RETRY_AFTER_S) from None
    finally:
        station.metrics.request(name, outcome)
    headers = {"Cache-Control": "no-store"}
    if wants_line(request):
        line = result_line(reply.result, reply.code, reply.trigger, reply.score, reply.id)
        return Response(line, headers=headers, media_type="text/plain")
    document = reply.document(with_heatmap=submission.fields.heatmap != "none")
    return Response(orjson.dumps(document), headers=headers, media_type="application/json")
