"""What a client submitted: the image's bytes and the fields, read from one request."""

import asyncio
import time
from dataclasses import dataclass

from fastapi import Request

from service.body import BodyReader
from service.fields import Fields, add_parts, parse_trigger, validate
from service.multipart import boundary_of, parse_form
from service.problems import DEADLINE_PASSED, NOT_AN_IMAGE, WRONG_FIELD, Problem

IMAGE_PART = "image"


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
    try:
        async with asyncio.timeout_at(deadline):
            content = await body.read()
    except TimeoutError:
        raise Problem(DEADLINE_PASSED, "the deadline passed before the body was complete") from None
    boundary = boundary_of(request.headers.get("content-type", ""), content)
    if boundary is None:
        image = content
    else:
        parts = parse_form(content, boundary)
        if IMAGE_PART not in parts:
            names = ", ".join(repr(name[:80]) for name in parts) or "none"
            detail = f"the form has no part {IMAGE_PART!r}; has: {names}"
            raise Problem(WRONG_FIELD, detail, extensions={"field": IMAGE_PART})
        image = parts.pop(IMAGE_PART)
        if "trigger" in parts:
            request.state.trigger = parse_trigger(parts["trigger"].decode("utf-8", "replace"))
        add_parts(given, parts)
        fields = validate(given)
        deadline = _deadline(fields, arrival, default_deadline_ms)
    if not image:
        raise Problem(NOT_AN_IMAGE, "the body is empty; send an image file, bare pixels or a form with an image part")
    return Submission(image, fields, arrival, deadline)


def _deadline(fields: Fields, arrival: float, default_deadline_ms: int) -> float:
    deadline_ms = default_deadline_ms if fields.deadline_ms is None else fields.deadline_ms
    return arrival + deadline_ms / 1000


def elapsed_ms(since: float, until: float | None = None) -> float:
    """Milliseconds between two readings of `time.monotonic`, the second by default now; to the microsecond."""
    return round(((time.monotonic() if until is None else until) - since) * 1000, 3)
