"""Inspect an image; read an inspection and its pictures back."""

import asyncio
import time

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from atsnet.imaging import decode
from service import examples
from service.body import BodyReader
from service.disconnect import cancelled_by_disconnect
from service.fields import peek_trigger, url_and_header_fields, validate
from service.heatmap import heatmap_png, overlay_png
from service.inspector import RETRY_AFTER_S
from service.negotiation import result_line, wants_line
from service.problems import DEADLINE_PASSED, NOT_READY, UNKNOWN, Problem
from service.records.inspection import Inspection, is_id
from service.reply import RecordDocument
from service.routes.station import station_of
from service.submission import read_submission

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/inspections", tags=["inspections"])

_NOT_KEPT = "its image is not kept: the archive is off, or it made room for newer ones"


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


@router.get(
    "/{inspection_id}",
    summary="Read an inspection back",
    response_class=Response,
    responses={200: {"model": RecordDocument}, **examples.READING},
)
async def read(request: Request, inspection_id: str) -> Response:
    """The record of an inspection: its answer, with what inspected it and what the image was."""
    inspection = await _find(request, inspection_id)
    kept = await asyncio.to_thread(station_of(request).equipment.archive.has, inspection.id)
    document = inspection.document(kept=kept)
    return Response(orjson.dumps(document.model_dump()), media_type="application/json")


@router.get(
    "/{inspection_id}/image",
    summary="The image as it was sent",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}, "description": "The image file"}, **examples.READING},
)
async def image(request: Request, inspection_id: str) -> Response:
    """The kept image, byte for byte; bare pixels come back as PNG."""
    inspection = await _find(request, inspection_id)
    file = await asyncio.to_thread(station_of(request).equipment.archive.image, inspection.id)
    if file is None:
        raise Problem(UNKNOWN, f"inspection {inspection.id}: {_NOT_KEPT}")
    return _file(file.data, file.media_type)


@router.get(
    "/{inspection_id}/heatmap.png",
    summary="The anomaly map in colours",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The picture"}, **examples.READING},
)
async def heatmap(request: Request, inspection_id: str) -> Response:
    """The anomaly map in the image's layout, on one scale for all images: black is 0, brightest twice the threshold."""
    return await _picture(request, inspection_id, overlay=False)


@router.get(
    "/{inspection_id}/overlay.png",
    summary="The anomaly map over the image",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The picture"}, **examples.READING},
)
async def overlay(request: Request, inspection_id: str) -> Response:
    """The image with the anomaly map over it and a line around what is above the threshold."""
    return await _picture(request, inspection_id, overlay=True)


async def _find(request: Request, inspection_id: str) -> Inspection:
    records = station_of(request).equipment.records
    inspection = await records.get(inspection_id) if is_id(inspection_id) else None
    if inspection is None:
        raise Problem(UNKNOWN, f"there is no inspection {inspection_id[:64]!r}")
    return inspection


async def _picture(request: Request, inspection_id: str, *, overlay: bool) -> Response:
    inspection = await _find(request, inspection_id)
    return _file(await asyncio.to_thread(_render, request, inspection, overlay), "image/png")


def _render(request: Request, inspection: Inspection, overlay: bool) -> bytes:
    station = station_of(request)
    archive, layout = station.equipment.archive, inspection.layout
    anomaly_map, file = archive.anomaly_map(inspection.id), archive.image(inspection.id)
    if anomaly_map is None or file is None:
        raise Problem(UNKNOWN, f"inspection {inspection.id}: {_NOT_KEPT}")
    if not overlay:
        height, width = inspection.image_height, inspection.image_width
        return heatmap_png(anomaly_map, layout.placement, layout.geometry, height, width)
    pixels = decode(file.data, max_pixels=inspection.image_height * inspection.image_width)
    return overlay_png(pixels, anomaly_map, layout.placement, layout.geometry)


def _file(data: bytes, media_type: str) -> Response:
    # What is kept of an inspection never changes; nosniff, since a client chose the bytes.
    headers = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(data, headers=headers, media_type=media_type)
