"""What worker and engine say to each other, as compact JSON; images and maps are never in it."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict

from atsnet.imaging import Float32Array, Frame, InputGeometry, Placement, Roi, UInt8Array
from service.engine.slots import SlotLayout
from service.fields import Fields
from service.picture import ImageFile
from service.preparation import Prepared
from service.problems import KINDS, Problem
from service.recipes import Recipe
from service.submission import Submission

_MAX_DETAIL: Final = 1000


class Kind(IntEnum):
    """What a hand-off means. `INSPECT` and `SCORE` go to the engine, and exactly one answer comes back for each."""

    INSPECT = 1
    WITHDRAW = 2
    """Nobody waits for the answer any more."""
    REPLY = 3
    PROBLEM = 4
    WITHDRAWN = 5
    """The slot comes back without an answer."""
    SCORE = 6
    """To the engine: a frame that is no inspection; its header says the deadline alone."""
    SCORED = 7


class Welcome(BaseModel):
    """What a worker needs to know of the engine."""

    model_config = ConfigDict(frozen=True)

    digest: str
    geometry: InputGeometry
    map_height: int
    map_width: int
    max_in_flight: int
    recipe: Recipe
    """The default one."""

    @property
    def layout(self) -> SlotLayout:
        """The slots between this engine and one worker."""
        return SlotLayout(self.max_in_flight, self.geometry.frame_shape, (self.map_height, self.map_width))


@dataclass(frozen=True, slots=True)
class Received(Submission):
    """A submission as it arrives in the engine, decoded by a worker or refused there."""

    sha256: str
    decode_ms: float
    prepared: Prepared | None
    refused: Problem | None
    """Why there is no frame. An earlier verdict on the same request still goes before it."""
    map_room: Float32Array
    """Where the map is to be put if the reply shall have a picture, `float32 [h, w]`."""


def encode_request(submission: Submission, sha256: str, decode_ms: float, outcome: Prepared | Problem) -> bytes:
    """The header of a hand-off to the engine."""
    request: dict[str, Any] = {
        "fields": submission.fields.model_dump(exclude_defaults=True),
        "arrival": submission.arrival,
        "deadline": submission.deadline,
        "sha256": sha256,
        "decode_ms": decode_ms,
    }
    if isinstance(outcome, Problem):
        request["refused"] = _problem(outcome)
    else:
        placement, roi = outcome.frame.placement, outcome.frame.placement.roi
        request["suffix"] = outcome.file.suffix
        request["height"], request["width"] = outcome.height, outcome.width
        request["roi"] = (roi.x, roi.y, roi.width, roi.height)
        request["placement"] = (placement.left, placement.top, placement.width, placement.height)
    return orjson.dumps(request)


def decode_request(header: bytes, image: bytes, frame: UInt8Array, map_room: Float32Array) -> Received:
    """What `encode_request` encoded, with what came along."""
    request = orjson.loads(header)
    fields = Fields.model_validate(request["fields"])
    prepared = None
    if "refused" not in request:
        x, y, width, height = request["roi"]
        roi = Roi(x=x, y=y, width=width, height=height)
        file = ImageFile(request["suffix"], image, fields.raw_layout)
        placed = Frame(frame, Placement(roi, *request["placement"]))
        prepared = Prepared(file, request["sha256"], request["height"], request["width"], placed)
    return Received(
        image=image,
        fields=fields,
        arrival=request["arrival"],
        deadline=request["deadline"],
        sha256=request["sha256"],
        decode_ms=request["decode_ms"],
        prepared=prepared,
        refused=as_problem(request["refused"]) if prepared is None else None,
        map_room=map_room,
    )


def decode_lost(header: bytes, layout: SlotLayout) -> Received:
    """A request that an earlier engine took along, as far as its header tells."""
    return decode_request(header, b"", np.zeros(layout.frame_shape, np.uint8), np.zeros(layout.map_shape, np.float32))


def encode_problem(problem: Problem) -> bytes:
    """The header of a hand-off back that is a problem."""
    return orjson.dumps(_problem(problem))


def decode_problem(header: bytes) -> Problem:
    """What `encode_problem` encoded."""
    return as_problem(orjson.loads(header))


def as_problem(document: dict[str, Any]) -> Problem:
    """A problem from its parts."""
    return Problem(
        KINDS[document["kind"]],
        document["detail"],
        retry_after_s=document["retry_after_s"],
        extensions=document["extensions"],
    )


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind.slug,
        "detail": problem.detail[:_MAX_DETAIL],
        "retry_after_s": problem.retry_after_s,
        "extensions": problem.extensions,
    }
