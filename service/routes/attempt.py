"""A request for inspections until it is answered: whatever it comes to is counted and logged here."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import Response
from starlette.requests import ClientDisconnect

from service.body import BodyReader
from service.front import Front
from service.problems import DEADLINE_PASSED, FAILED, NOT_READY, Problem
from service.refusals import RETRY_AFTER_S

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Attempt:
    """What is known of a request so far."""

    station: str | None = None
    """Who asks."""
    outcome: str = FAILED.slug
    """How it ends: a verdict's word, `replayed`, or a problem's slug."""


async def attempt(front: Front, body: BodyReader, known: Attempt, answer: Coroutine[Any, Any, Response]) -> Response:
    """Answer a request for inspections.

    Args:
        front: Where it is counted.
        body: What is discarded of the request where it is refused.
        known: What the answer's maker finds out on its way.
        answer: Makes the answer.

    Raises:
        Problem: There is none, and why.
    """
    try:
        return await answer
    except Problem as problem:
        kind = problem.kind
        known.outcome = kind.slug
        if kind is DEADLINE_PASSED:
            front.metrics.deadline_missed()
        log.warning("refused", code=kind.code, status=kind.status, detail=problem.detail, station=known.station)
        await body.discard()
        raise
    except ClientDisconnect:
        known.outcome = "client-gone"
        log.warning("client_gone", station=known.station)
        return Response(status_code=499)
    except asyncio.CancelledError:  # the server stops, and its patience is at an end
        known.outcome = NOT_READY.slug
        detail = "the service shut down before the inspection was finished"
        raise Problem(NOT_READY, detail, retry_after_s=RETRY_AFTER_S) from None
    finally:
        front.metrics.request(known.station, known.outcome)
