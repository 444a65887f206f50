"""The documents that the service answers with; the order of the keys is part of the contract."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VerdictWord = Literal["pass", "review", "fail", "not_evaluated"]
ReviewWord = Literal["confirmed", "false_reject", "missed_defect"]
ResultCode = Literal[0, 1, 2, 3, 4]


class Region(BaseModel):
    """A connected anomalous area, in pixels of the original image."""

    model_config = ConfigDict(frozen=True)

    x: int = Field(ge=0)
    y: int = Field(ge=0)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    area: int = Field(ge=1)
    peak: float = Field(description="Greatest calibrated anomaly in it; 1.0 is the shipped threshold.")


class Timing(BaseModel):
    """Where the time went, in ms. What is read back from the records says 0 for `record`: not known when written."""

    model_config = ConfigDict(frozen=True)

    decode: float = Field(ge=0, description="Decoding, cropping and scaling, with the wait for a thread.")
    queue: float = Field(ge=0, description="Waiting for a session.")
    inference: float = Field(ge=0, description="The network.")
    record: float = Field(ge=0, description="Writing the record to disk.")
    total: float = Field(ge=0, description="From the arrival of the request's head to its answer.")


class Verdict(BaseModel):
    """What was decided of one image, and by what."""

    model_config = ConfigDict(frozen=True)

    v: Literal[1] = 1
    trigger: int | None = Field(description="As in the request.")
    result: ResultCode = Field(description="0 not evaluated (treat as reject), 1 pass, 2 fail, 3 error, 4 review.")
    code: int = Field(description="0 evaluated; 50 the engine failed.")
    verdict: VerdictWord
    score: float | None = Field(description="Calibrated score, 1.0 is the shipped threshold; null where none came out.")
    threshold: float = Field(description="Calibrated score above which the recipe fails a part.")
    ms: float = Field(ge=0, description="Same as `timing_ms.total`.")
    id: str = Field(description="ULID of the inspection.")
    recipe: str
    recipe_version: int
    model: str
    model_version: str
    station: str | None
    lot: str | None
    serial: str | None
    regions: tuple[Region, ...] = Field(description="Anomalous areas, greatest peak first, 32 at most.")
    timing_ms: Timing
    replayed: bool = Field(description="Whether this is the recorded answer to an earlier request with the same key.")


class Reply(Verdict):
    """The answer to an inspection."""

    heatmap: str | None = Field(
        default=None,
        description="Only when asked for: the picture as base64 PNG; null on a replay whose map is no longer kept.",
    )

    def document(self, *, with_heatmap: bool) -> dict[str, Any]:
        """The JSON document; without the key `heatmap` where no picture was asked for."""
        return self.model_dump(exclude=None if with_heatmap else {"heatmap"})


class Review(BaseModel):
    """What a person says of an inspection; the verdict itself never changes."""

    model_config = ConfigDict(frozen=True)

    review: ReviewWord
    note: str
    by: str | None = Field(description="Name of the API key; null where the service is open.")
    created: datetime = Field(description="When, UTC.")


class ListedRecord(Verdict):
    """A recorded inspection, as the listing has it."""

    created: datetime = Field(description="When the request arrived, UTC.")
    model_digest: str = Field(description="sha256 of the bundle's manifest.")
    raw_score: float | None = Field(description="Score in the network's own units.")
    image_sha256: str
    image_width: int
    image_height: int
    face: int | None = Field(default=None, description="Of a batch: which face of its part, from 1; else null.")
    faces: int | None = Field(default=None, description="Of a batch: how many faces there were.")
    detail: str | None = Field(description="What went wrong, for result 3.")
    review: Review | None = Field(default=None, description="The latest review; null where there is none.")


class RecordDocument(ListedRecord):
    """A recorded inspection, read back."""

    kept: bool = Field(description="Whether the image is still in the archive.")


class RecordPage(BaseModel):
    """A page of the listing."""

    items: tuple[ListedRecord, ...] = Field(description="Newest first.")
    next: str | None = Field(description="Cursor of the page that follows; null after the last one.")
