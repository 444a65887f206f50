"""What a client submitted: the image's bytes and the fields, read from one request."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from service.body import BodyReader
from service.fields import Fields, add_parts, parse_trigger, validate
from service.multipart import boundary_of, parse_form
from service.problems import DEADLINE_PASSED, NOT_AN_IMAGE, WRONG_FIELD, Problem

IMAGE_PART: Final = "image"
MAX_FACES: Final = 16
"""Images of one batch."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One image to inspect."""

    image: bytes
    fields: Fields
    arrival: float
    """When the request's head was there, on the clock of `time.monotonic`."""
    deadline: float
    """When the answer is too late, on the same clock."""


async def read_submission(
    request: Request,
    body: BodyReader,
    given: dict[str, str],
    fields: Fields,
    *,
    arrival: float,
    default_deadline_ms: int,
) -> Submission:
    """Read the rest of a request whose query and headers said `given`, which `fields` are when validated.

    Raises:
        Problem: Codes 10, 11, 13, and 41 when the body did not come before the deadline.
        ClientDisconnect: The client left before the body was complete.
    """
    deadline = _deadline(fields, arrival, default_deadline_ms)
    content = await _content(body, deadline)
    boundary = boundary_of(request.headers.get("content-type", ""), content)
    if boundary is None:
        image = content
    else:
        images, fields = _read_form(request, content, boundary, given)
        if len(images) > 1:
            raise _wrong_images("the form has two parts 'image'; POST /v1/inspections:batch takes several")
        [image] = images
        deadline = _deadline(fields, arrival, default_deadline_ms)
    if not image:
        raise Problem(NOT_AN_IMAGE, "the body is empty; send an image file, bare pixels or a form with an image part")
    return Submission(image, fields, arrival, deadline)


async def read_faces(
    request: Request,
    body: BodyReader,
    given: dict[str, str],
    fields: Fields,
    *,
    arrival: float,
    default_deadline_ms: int,
) -> list[Submission]:
    """Read a form with an image part for each face of one grain; the faces share everything but their images.

    Raises:
        Problem: Codes 10, 11, 13, and 41 when the body did not come before the deadline. What is wrong with one image
            is left for its inspection to say.
        ClientDisconnect: The client left before the body was complete.
    """
    content = await _content(body, _deadline(fields, arrival, default_deadline_ms))
    boundary = boundary_of(request.headers.get("content-type", ""), content)
    if boundary is None:
        what = "is no form" if content else "is empty"
        raise Problem(NOT_AN_IMAGE, f"the body {what}; send a multipart form with a part {IMAGE_PART!r} for each face")
    images, fields = _read_form(request, content, boundary, given)
    if len(images) > MAX_FACES:
        raise _wrong_images(f"the form has {len(images)} parts {IMAGE_PART!r}; at most {MAX_FACES} are allowed")
    deadline = _deadline(fields, arrival, default_deadline_ms)
    return [
        Submission(image, fields.of_face(index, len(images)), arrival, deadline) for index, image in enumerate(images)
    ]


async def _content(body: BodyReader, deadline: float) -> bytes:
    try:
        async with asyncio.timeout_at(deadline):
            return await body.read()
    except TimeoutError:
        raise Problem(DEADLINE_PASSED, "the deadline passed before the body was complete") from None


def _read_form(request: Request, content: bytes, boundary: bytes, given: dict[str, str]) -> tuple[list[bytes], Fields]:
    """The images of a form, at least one, and the fields that it completes."""
    images: list[bytes] = []
    others: dict[str, bytes] = {}
    for name, data in parse_form(content, boundary):
        if name == IMAGE_PART:
            images.append(data)
        elif name in others:
            raise Problem(WRONG_FIELD, f"the form has two parts {name[:80]!r}", extensions={"field": name[:80]})
        else:
            others[name] = data
    if not images:
        names = ", ".join(repr(name[:80]) for name in others) or "none"
        raise _wrong_images(f"the form has no part {IMAGE_PART!r}; has: {names}")
    if "trigger" in others:
        request.state.trigger = parse_trigger(others["trigger"].decode("utf-8", "replace"))
    add_parts(given, others)
    return images, validate(given)


def _wrong_images(detail: str) -> Problem:
    return Problem(WRONG_FIELD, detail, extensions={"field": IMAGE_PART})


def _deadline(fields: Fields, arrival: float, default_deadline_ms: int) -> float:
    deadline_ms = default_deadline_ms if fields.deadline_ms is None else fields.deadline_ms
    return arrival + deadline_ms / 1000


def elapsed_ms(since: float, until: float | None = None) -> float:
    """Milliseconds between two readings of `time.monotonic`, the second by default now; to the microsecond."""
    return round(((time.monotonic() if until is None else until) - since) * 1000, 3)
