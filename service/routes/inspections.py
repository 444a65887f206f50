"""Inspect an image; `records` has what is read back of it."""

import time

import orjson
from fastapi import APIRouter, Request, Response

from service import examples
from service.body import BodyReader
from service.disconnect import cancelled_by_disconnect
from service.fields import peek_trigger, url_and_header_fields, validate
from service.front import Front
from service.negotiation import result_line, wants_line
from service.routes.attempt import Attempt, attempt
from service.routes.station import station_of
from service.submission import read_submission

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
    body, known = BodyReader(request, station.settings.max_body_bytes), Attempt()
    return await attempt(station, body, known, _inspect(request, station, body, known, arrival))


async def _inspect(request: Request, station: Front, body: BodyReader, known: Attempt, arrival: float) -> Response:
    request.state.trigger = peek_trigger(request)
    given = url_and_header_fields(request)
    fields = validate(given)
    known.station = fields.station
    with station.admitted():
        submission = await read_submission(
            request, body, given, fields, arrival=arrival, default_deadline_ms=station.settings.deadline_ms
        )
        known.station = submission.fields.station
        reply = await station.equipment.inspector.inspect(submission, cancelled_by_disconnect(request.receive))
    known.outcome = "replayed" if reply.replayed else reply.verdict
    headers = {"Cache-Control": "no-store"}
    if wants_line(request):
        line = result_line(reply.result, reply.code, reply.trigger, reply.score, reply.id)
        return Response(line, headers=headers, media_type="text/plain")
    document = reply.document(with_heatmap=submission.fields.heatmap != "none")
    return Response(orjson.dumps(document), headers=headers, media_type="application/json")
