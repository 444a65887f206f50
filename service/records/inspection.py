"""One recorded inspection."""

import random
import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from ulid import ULID

from atsnet.imaging import InputGeometry, Placement
from service.recipes import HeatmapStyle
from service.reply import ListedRecord, RecordDocument, Region, Reply, ResultCode, Review, Timing, VerdictWord

_random: Final = random.Random()
_MOST_AHEAD_MS: Final = 12 * 3_600_000
_last_id = 0
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def new_id() -> str:
    """A new inspection id: a ULID, so that ids sort by time; in one process each is greater than those before it.

    Its randomness keeps ids apart and is no secret, so that it need not be asked of the system each time. Within a
    millisecond, and while a clock that was set back has not caught up, ids go on from the last one; from one that is
    half a day ahead they do not, since that clock had been wrong and they would be for as long.
    """
    global _last_id  # the events rely on the order: who got one id need not look before it again
    by_clock = time.time_ns() // 1_000_000 << 80 | _random.getrandbits(80)
    _last_id = max(_last_id + 1, by_clock) if _last_id < _first_beyond() else by_clock
    return str(ULID.from_int(_last_id))


def continue_after(inspection_id: str) -> None:
    """Make all new ids greater than one that an earlier process made, if its clock was right."""
    global _last_id
    earlier = int(ULID.from_str(inspection_id))
    if earlier < _first_beyond():
        _last_id = max(_last_id, earlier)


def first_id_beyond() -> str:
    """The least id that is so far in the future that no clock can have been right."""
    return str(ULID.from_int(_first_beyond()))


def _first_beyond() -> int:
    return time.time_ns() // 1_000_000 + _MOST_AHEAD_MS << 80


def is_id(text: str) -> bool:
    """Whether `text` has the form of an inspection id; nothing else may become part of a path or query."""
    return _ULID.fullmatch(text) is not None


class FrameLayout(BaseModel):
    """How the image lay in the frame, so that the map can be brought back to the image later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    geometry: InputGeometry
    placement: Placement
    style: HeatmapStyle | None = None
    """Of pictures of the map, where the recipe has one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A request and its verdict; the columns of the table."""

    id: str
    created: datetime
    request_key: str | None
    """What makes retries of the request the same request; unique where there is one."""
    station: str | None
    lot: str | None
    serial: str | None
    trigger: int | None
    recipe: str
    recipe_version: int
    model: str
    model_version: str
    model_digest: str
    result: ResultCode
    code: int
    verdict: VerdictWord
    score: float | None
    raw_score: float | None
    threshold: float
    regions: tuple[Region, ...]
    timing: Timing
    image_sha256: str
    image_width: int
    image_height: int
    layout: FrameLayout
    detail: str | None
    face: int | None
    """Of a batch: which face of its part, from 1."""
    faces: int | None
    """Of a batch: how many there were."""

    def reply(self, *, timing: Timing | None = None, replayed: bool = False, heatmap: str | None = None) -> Reply:
        """The answer to the client; `timing` in place of the recorded one where the whole of it is known."""
        timing = timing or self.timing
        return Reply(
            trigger=self.trigger,
            result=self.result,
            code=self.code,
            verdict=self.verdict,
            score=None if self.score is None else round(self.score, 6),
            threshold=self.threshold,
            ms=timing.total,
            id=self.id,
            recipe=self.recipe,
            recipe_version=self.recipe_version,
            model=self.model,
            model_version=self.model_version,
            station=self.station,
            lot=self.lot,
            serial=self.serial,
            regions=self.regions,
            timing_ms=timing,
            replayed=replayed,
            heatmap=heatmap,
        )

    def listed(self, review: Review | None) -> ListedRecord:
        """The record as the listing has it, with the review that counts."""
        return ListedRecord(**self._document(review))

    def document(self, review: Review | None, *, kept: bool) -> RecordDocument:
        """The record as it is read back over HTTP."""
        return RecordDocument(**self._document(review), kept=kept)

    def _document(self, review: Review | None) -> dict[str, Any]:
        return {
            **self.reply().model_dump(exclude={"heatmap"}),
            "created": self.created,
            "model_digest": self.model_digest,
            "raw_score": self.raw_score,
            "image_sha256": self.image_sha256,
            "image_width": self.image_width,
            "image_height": self.image_height,
            "face": self.face,
            "faces": self.faces,
            "detail": self.detail,
            "review": review,
        }
