"""Read inspections back: one, its pictures, or all that fit; and take down what a person says of one."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection

from atsnet.imaging import decode
from service import examples
from service.body import BodyReader
from service.heatmap import heatmap_png, overlay_png
from service.negotiation import wants_csv
from service.problems import NOT_READY, TOO_LARGE, UNKNOWN, WRONG_FIELD, Problem, ProblemDocument
from service.records import csv_export
from service.records.audit import actor_of
from service.records.database import RecordError
from service.records.inspection import Inspection, is_id
from service.records.listing import read_page
from service.records.query import ListQuery, query_parameters, read_query, wrong, wrong_value
from service.records.store import RecordReader
from service.refusals import RETRY_AFTER_S
from service.reply import RecordDocument, RecordPage, Review, ReviewWord
from service.routes.station import station_of

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/inspections", tags=["inspections"])

_NOT_KEPT = "its image or map is not kept: it is no sample, had no outcome, or made room or was too old"
_PAGE: Final = 100
_CSV_PAGE: Final = 500
"""Lines of a table that are in memory at once."""
_MAX_REVIEW_BYTES: Final = 16 * 1024

_WRONG: Final[dict[int | str, dict[str, Any]]] = {422: {"model": ProblemDocument, "description": WRONG_FIELD.title}}
_TOO_LARGE: Final[dict[int | str, dict[str, Any]]] = {413: {"model": ProblemDocument, "description": TOO_LARGE.title}}
_LINK: Final = {"Link": {"description": 'The page that follows, `rel="next"`.', "schema": {"type": "string"}}}


def _printable(text: str) -> str:
    if not text.translate({ord("\n"): " ", ord("\t"): " "}).isprintable():
        raise ValueError("control characters are not allowed, but for line feed and tab")
    return text


class ReviewRequest(BaseModel):
    """What a person says of an inspection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    review: ReviewWord = Field(
        description="`confirmed`: the verdict is right; `false_reject`: the part is good; `missed_defect`: it is not."
    )
    note: Annotated[str, Field(max_length=2000), AfterValidator(_printable)] = Field(
        default="", description="Why, for those who come after."
    )


_REVIEW: Final = {
    "schema": ReviewRequest.model_json_schema(),
    "example": {"review": "false_reject", "note": "only dust"},
}


@router.get(
    "",
    summary="List inspections, newest first",
    response_class=Response,
    responses={
        200: {
            "model": RecordPage,
            "description": "A page; with `Accept: text/csv`, all that fit as a table",
            "content": {"text/csv": {"schema": {"type": "string"}}},
            "headers": _LINK,
        },
        **_WRONG,
        **examples.NOT_READY,
    },
    openapi_extra={"parameters": query_parameters()},
)
async def listing(request: Request) -> Response:
    """The inspections that fit every filter, a page at a time; `next`, or the `Link` header, leads to what follows."""
    query = read_query(request.query_params)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    records = station_of(request).equipment.records
    with _reached():
        if wants_csv(request):
            headers["Content-Disposition"] = 'attachment; filename="inspections.csv"'
            table = _table(records, query)
            first = await anext(table)  # what fails before anything was sent is still a problem
            return StreamingResponse(_continued(first, table), headers=headers, media_type="text/csv")
        body, following = await records.listed(partial(_page, query))
    if following is not None:
        others = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        headers["Link"] = f'<{router.prefix}?{urlencode([*others, ("cursor", following)])}>; rel="next"'
    return Response(body, headers=headers, media_type="application/json")


@router.get(
    "/{inspection_id}",
    summary="Read an inspection back",
    response_class=Response,
    responses={200: {"model": RecordDocument}, **examples.READING},
)
async def read(request: Request, inspection_id: str) -> Response:
    """The record of an inspection: its answer, what inspected it, what the image was, and what a person said of it."""
    return await _document(request, *await _find(request, inspection_id))


@router.put(
    "/{inspection_id}/review",
    summary="Say what a person thinks of an inspection",
    response_class=Response,
    responses={200: {"model": RecordDocument}, **examples.READING, **_WRONG, **_TOO_LARGE},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": _REVIEW}}},
)
async def review(request: Request, inspection_id: str) -> Response:
    """Take down an operator's word, beside the verdict, which never changes. The latest one counts; all are kept."""
    body = BodyReader(request, _MAX_REVIEW_BYTES)
    try:
        asked = _read_review(await body.read())
        if not is_id(inspection_id):
            raise _unknown(inspection_id)
    except Problem:
        await body.discard()
        raise
    records = station_of(request).equipment.records
    with _reached():
        known = await records.review(inspection_id, asked.review, asked.note, actor_of(request))
    if not known:
        raise _unknown(inspection_id)
    log.info("reviewed", id=inspection_id, review=asked.review, by=actor_of(request).name)
    return await _document(request, *await _find(request, inspection_id))


@router.get(
    "/{inspection_id}/image",
    summary="The image as it was sent",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}, "description": "The image file"}, **examples.READING},
)
async def image(request: Request, inspection_id: str) -> Response:
    """The kept image, byte for byte; bare pixels come back as PNG."""
    inspection, _ = await _find(request, inspection_id)
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


def _page(query: ListQuery, connection: Connection) -> tuple[bytes, str | None]:
    """The body of a page, and the cursor of the one that follows."""
    page = read_page(connection, query.filters, query.before, query.limit or _PAGE)
    items = [inspection.listed(review).model_dump() for inspection, review in page.entries]
    return orjson.dumps({"items": items, "next": page.next}), page.next


async def _table(records: RecordReader, query: ListQuery) -> AsyncGenerator[str]:
    """The lines of a table, a piece at a time: however long it is, one piece is in memory."""
    head, before, left = csv_export.HEADER, query.before, query.limit
    while True:
        size = _CSV_PAGE if left is None else min(_CSV_PAGE, left)
        lines, before = await records.listed(partial(_lines, query, before, size))
        yield head + lines
        head, left = "", None if left is None else left - size
        if before is None or left == 0:
            return


def _lines(query: ListQuery, before: str | None, size: int, connection: Connection) -> tuple[str, str | None]:
    return csv_export.read_lines(connection, query.filters, before, size)


async def _continued(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    yield first
    async for piece in rest:
        yield piece


def _read_review(body: bytes) -> ReviewRequest:
    try:
        return ReviewRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise wrong("body", f"body: no JSON: {error}") from error
    except ValidationError as error:
        raise wrong_value(error) from error


async def _find(request: Request, inspection_id: str) -> tuple[Inspection, Review | None]:
    records = station_of(request).equipment.records
    with _reached():
        found = await records.reviewed(inspection_id) if is_id(inspection_id) else None
    if found is None:
        raise _unknown(inspection_id)
    return found


async def _document(request: Request, inspection: Inspection, review: Review | None) -> Response:
    kept = await asyncio.to_thread(station_of(request).equipment.archive.has, inspection.id)
    document = inspection.document(review, kept=kept)
    return Response(orjson.dumps(document.model_dump()), media_type="application/json")


async def _picture(request: Request, inspection_id: str, *, overlay: bool) -> Response:
    inspection, _ = await _find(request, inspection_id)
    return _file(await asyncio.to_thread(_render, request, inspection, overlay), "image/png")


def _render(request: Request, inspection: Inspection, overlay: bool) -> bytes:
    station = station_of(request)
    archive, layout = station.equipment.archive, inspection.layout
    anomaly_map, file = archive.anomaly_map(inspection.id), archive.image(inspection.id)
    if anomaly_map is None or file is None:
        raise Problem(UNKNOWN, f"inspection {inspection.id}: {_NOT_KEPT}")
    if not overlay:
        height, width = inspection.image_height, inspection.image_width
        return heatmap_png(anomaly_map, layout.placement, layout.geometry, height, width, layout.style)
    pixels = decode(file.data, max_pixels=inspection.image_height * inspection.image_width)
    return overlay_png(pixels, anomaly_map, layout.placement, layout.geometry, layout.style)


def _file(data: bytes, media_type: str) -> Response:
    # What is kept of an inspection never changes; nosniff, since a client chose the bytes.
    headers = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(data, headers=headers, media_type=media_type)


def _unknown(inspection_id: str) -> Problem:
    return Problem(UNKNOWN, f"there is no inspection {inspection_id[:64]!r}")


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except RecordError as error:
        raise Problem(NOT_READY, str(error), retry_after_s=RETRY_AFTER_S) from error
