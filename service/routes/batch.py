"""Inspect the faces of one grain together."""

import asyncio
import time
from collections.abc import Sequence

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from service import examples
from service.body import BodyReader
from service.disconnect import cancelled_by_disconnect
from service.faces import BatchReply, Face, Joint, document_of, join
from service.fields import peek_trigger, url_and_header_fields, validate
from service.front import Front
from service.negotiation import result_line, wants_line
from service.problems import DEADLINE_PASSED, KEY_REUSED, NOT_READY, OVERLOADED, WRONG_FIELD, Problem, unexpected
from service.records.database import RecordError
from service.refusals import as_problem, late
from service.reply import Reply
from service.routes.attempt import Attempt, attempt
from service.routes.station import station_of
from service.submission import IMAGE_PART, MAX_FACES, Submission, elapsed_ms, read_faces
from service.withdrawal import Withdrawal

log = structlog.get_logger(__name__)
router = APIRouter(tags=["inspections"])


@router.post(
    "/v1/inspections:batch",
    summary="Inspect the faces of one grain",
    response_class=Response,
    responses={
        **examples.RESPONSES,
        200: {"model": BatchReply, "description": "A verdict on each face and the joint one"},
    },
    openapi_extra=examples.BATCH_REQUEST,
)
async def inspect_faces(request: Request) -> Response:
    """Inspect up to 16 images of one grain, and answer a verdict on each and the joint one.

    All of them are inspected or none is. Each is recorded as an inspection of its own, before the answer leaves. What
    is wrong with one image stands in its place and takes no other's verdict away; the grain cannot pass then.
    """
    arrival = time.monotonic()
    station = station_of(request)
    body, known = BodyReader(request, station.settings.max_body_bytes), Attempt()
    return await attempt(station, body, known, _inspect_faces(request, station, body, known, arrival))


async def _inspect_faces(
    request: Request, station: Front, body: BodyReader, known: Attempt, arrival: float
) -> Response:
    request.state.trigger = peek_trigger(request)
    given = url_and_header_fields(request)
    fields = validate(given)
    known.station = fields.station
    with station.admitted():
        submissions = await read_faces(
            request, body, given, fields, arrival=arrival, default_deadline_ms=station.settings.deadline_ms
        )
        known.station = submissions[0].fields.station
        _check_room(station, len(submissions))
        with station.admitted_further(len(submissions) - 1):
            await _check_count(station, submissions)
            faces = await _inspect_all(request, station, submissions)
    joint = join(faces)
    known.outcome = _outcome(faces, joint)
    return _answer(request, faces, joint, submissions[0])


def _check_room(station: Front, count: int) -> None:
    """Refuse a batch that would be too large even for a service that has nothing else to do.

    Raises:
        Problem: Code 13, where trying again would never help.
    """
    if count > station.max_in_flight:
        detail = f"{count} faces are more than the {station.max_in_flight} inspections that may be under way at once"
        raise Problem(WRONG_FIELD, f"{detail} (setting queue_size)", extensions={"field": IMAGE_PART})


async def _check_count(station: Front, submissions: Sequence[Submission]) -> None:
    """Refuse a retry that has more or fewer faces than the request had before.

    Otherwise a grain that failed could pass by leaving the face out that failed it.
    """
    fields = submissions[0].fields
    if fields.request_key is None:
        return
    others = [
        fields.of_face(index, count).request_key or ""
        for count in range(1, MAX_FACES + 1)
        for index in range(count)
        if count != len(submissions)
    ]
    try:
        async with asyncio.timeout_at(submissions[0].deadline):
            earlier = await station.equipment.records.find_any(others)
    except TimeoutError:
        raise late(submissions[0]) from None
    except RecordError as error:
        raise as_problem(error) from error
    if earlier is not None:
        detail = f"inspection {earlier.id} has the same idempotency key, but belongs to a batch of another size"
        raise Problem(KEY_REUSED, f"{detail}; other images need a new key, or a new trigger")


async def _inspect_all(request: Request, station: Front, submissions: Sequence[Submission]) -> list[Face]:
    """Inspect all faces at once, by the same recipe and bundle.

    Raises:
        Problem: Code 40: one was refused for want of room, in the engine behind this process.
        ClientDisconnect: The client left; faces that had an outcome by then are recorded.
    """
    withdrawals = [Withdrawal() for _ in submissions]
    with station.equipment.inspector.at_one_time() as inspect:
        tasks = [
            asyncio.create_task(inspect(submission, withdrawal))
            for submission, withdrawal in zip(submissions, withdrawals, strict=True)
        ]
        try:
            async with cancelled_by_disconnect(request.receive):
                await asyncio.wait(tasks)
        except ClientDisconnect:
            for withdrawal in withdrawals:
                withdrawal.withdraw()
            await asyncio.wait(tasks)
            raise
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    faces = [_face(outcome) for outcome in outcomes]
    for face in faces:
        if isinstance(face, Problem):
            if face.kind in (OVERLOADED, NOT_READY):
                raise face
            if face.kind is DEADLINE_PASSED:
                station.metrics.deadline_missed()
            log.warning("face_refused", code=face.kind.code, detail=face.detail, station=submissions[0].fields.station)
    return faces


def _face(outcome: Reply | BaseException) -> Face:
    if isinstance(outcome, Reply | Problem):
        return outcome
    log.error("unexpected_error", exc_info=outcome)
    return unexpected()


def _outcome(faces: Sequence[Face], joint: Joint) -> str:
    """What the request counts as: like one for the face that decided."""
    face = faces[joint.decided_by]
    if isinstance(face, Problem):
        return face.kind.slug
    return "replayed" if all(not isinstance(each, Problem) and each.replayed for each in faces) else joint.verdict


def _answer(request: Request, faces: Sequence[Face], joint: Joint, submission: Submission) -> Response:
    headers = {"Cache-Control": "no-store"}
    trigger = submission.fields.trigger
    if wants_line(request):
        face = faces[joint.decided_by]
        score, id_ = (None, face.extensions.get("id")) if isinstance(face, Problem) else (face.score, face.id)
        line = result_line(joint.result, joint.code, trigger, score, id_)
        return Response(line, headers=headers, media_type="text/plain")
    with_heatmap = submission.fields.heatmap != "none"
    document = {
        "v": 1,
        "trigger": trigger,
        "result": joint.result,
        "code": joint.code,
        "verdict": joint.verdict,
        "faces": [document_of(face, trigger, with_heatmap=with_heatmap) for face in faces],
        "ms": elapsed_ms(submission.arrival),
    }
    return Response(orjson.dumps(document), headers=headers, media_type="application/json")
