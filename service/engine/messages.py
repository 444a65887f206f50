"""What worker and engine say to each other, as compact JSON; images and maps are never in it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict

from atsnet.imaging import Frame, Placement, Roi
from atsnet.quality import Quality
from service.engine.slots import SlotLayout, SlotMemory
from service.fields import Fields
from service.picture import ImageFile
from service.preparation import Prepared
from service.problems import KINDS, Problem
from service.recipes import RecipeBook
from service.records.inspection import FrameLayout
from service.setups import Edition, Plan
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
    """What a worker needs to know of the engine; sent again when something of it has changed."""

    model_config = ConfigDict(frozen=True)

    edition: int
    """Number of the engine's edition, which requests name."""
    bundle: str
    """`name/version` of the default recipe's bundle."""
    digest: str
    max_in_flight: int
    plans: dict[str, Plan]
    """By the names of the active recipes."""
    default: str
    """Name of the default recipe."""
    unfit: str | None
    """Why a bundle must not inspect."""

    @property
    def layout(self) -> SlotLayout:
        """The slots that it takes between this engine and one worker."""
        plans = self.plans.values()
        frame_bytes = max(math.prod(plan.geometry.frame_shape) for plan in plans)
        return SlotLayout(self.max_in_flight, frame_bytes, max(plan.map_height * plan.map_width for plan in plans))

    @property
    def book(self) -> RecipeBook[Plan]:
        """What images are decoded by."""
        return RecipeBook(self.edition, self.plans, self.default)


class Drawing(BaseModel):
    """What a worker needs to know to draw a map that comes back in a slot."""

    layout: FrameLayout
    height: int
    """Of the map."""
    width: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot of a memory."""

    memory: SlotMemory
    number: int


@dataclass(frozen=True, slots=True)
class Received(Submission):
    """A submission as it arrives in the engine, decoded by a worker or refused there."""

    edition: Edition
    """What it was decoded by."""
    sha256: str
    decode_ms: float
    prepared: Prepared | None
    refused: Problem | None
    """Why there is no frame. An earlier verdict on the same request still goes before it."""
    slot: Slot | None
    """Where the map is to be put if the reply shall have a picture."""


def encode_request(
    submission: Submission, edition: int, sha256: str, decode_ms: float, outcome: Prepared | Problem
) -> bytes:
    """The header of a hand-off to the engine.

    Args:
        submission: What a client sent.
        edition: Number of the edition that it was decoded by.
        sha256: Of the image.
        decode_ms: What decoding took.
        outcome: What came of it.
    """
    request: dict[str, Any] = {
        "fields": submission.fields.model_dump(exclude_defaults=True),
        "arrival": submission.arrival,
        "deadline": submission.deadline,
        "edition": edition,
        "sha256": sha256,
        "decode_ms": decode_ms,
    }
    if isinstance(outcome, Problem):
        request["refused"] = problem_parts(outcome)
    else:
        placement, roi = outcome.frame.placement, outcome.frame.placement.roi
        request["suffix"] = outcome.file.suffix
        request["height"], request["width"] = outcome.height, outcome.width
        request["roi"] = (roi.x, roi.y, roi.width, roi.height)
        request["quality"] = None if outcome.quality is None else tuple(outcome.quality)
        request["placement"] = (placement.left, placement.top, placement.width, placement.height)
    return orjson.dumps(request)


def decode_request(header: bytes, image: bytes, slot: Slot | None, editions: Callable[[int], Edition]) -> Received:
    """What `encode_request` encoded, with what came along.

    Args:
        header: The request's.
        image: As it was sent; empty where nothing is kept.
        slot: Where the frame is; of a request that an earlier engine took along there is none.
        editions: By their numbers.
    """
    request = orjson.loads(header)
    fields = Fields.model_validate(request["fields"])
    edition = editions(request["edition"])
    prepared = None
    if "refused" not in request:
        x, y, width, height = request["roi"]
        roi = Roi(x=x, y=y, width=width, height=height)
        shape = edition.get(fields.recipe).plan.geometry.frame_shape
        pixels = np.zeros(shape, np.uint8) if slot is None else slot.memory.frame(slot.number, shape)
        quality = None if request["quality"] is None else Quality(*request["quality"])
        file = ImageFile(request["suffix"], image, fields.raw_layout)
        placed = Frame(pixels, Placement(roi, *request["placement"]))
        prepared = Prepared(file, request["sha256"], request["height"], request["width"], placed, quality)
    return Received(
        image=image,
        fields=fields,
        arrival=request["arrival"],
        deadline=request["deadline"],
        edition=edition,
        sha256=request["sha256"],
        decode_ms=request["decode_ms"],
        prepared=prepared,
        refused=as_problem(request["refused"]) if prepared is None else None,
        slot=slot,
    )


def encode_problem(problem: Problem) -> bytes:
    """The header of a hand-off back that is a problem."""
    return orjson.dumps(problem_parts(problem))


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


def problem_parts(problem: Problem) -> dict[str, Any]:
    """A problem as JSON; see `as_problem`."""
    return {
        "kind": problem.kind.slug,
        "detail": problem.detail[:_MAX_DETAIL],
        "retry_after_s": problem.retry_after_s,
        "extensions": problem.extensions,
    }
