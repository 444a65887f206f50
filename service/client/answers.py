"""What the service answers, checked for more than its form: an answer that contradicts itself is none."""

import base64
import binascii
import math
from typing import Annotated, Final, Literal, NoReturn, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from service.reply import ListedRecord, RecordDocument, Reply, ResultCode, VerdictWord
from service.reply import Verdict as Decision

_WORDS: Final[dict[int, VerdictWord]] = {1: "pass", 2: "fail", 4: "review"}
WORST_FIRST: Final = (2, 3, 0, 4, 1)
"""Which result of a face decides about the grain: fail, error, not evaluated, review, pass."""
_ROUNDING: Final = 1e-6
"""Scores are answered with six decimals, so that one just below the threshold may come as one just above it."""


def _check(answer: Decision) -> None:
    """Result, code, word and score must say the same.

    Raises:
        ValueError: They do not.
    """
    word = _WORDS.get(answer.result, "not_evaluated")
    if answer.verdict != word or (answer.code == 0) != (answer.result in _WORDS):
        raise ValueError(f"result {answer.result}, code {answer.code} and verdict {answer.verdict!r} contradict")
    if not math.isfinite(answer.threshold) or (answer.score is not None and not math.isfinite(answer.score)):
        raise ValueError("score or threshold is not a finite number")
    if answer.result in _WORDS and answer.score is None:
        raise ValueError(f"verdict {answer.verdict!r} without a score")
    if answer.result == 1 and answer.score is not None and answer.score > answer.threshold + _ROUNDING:
        raise ValueError(f"a pass whose score {answer.score} is above the threshold {answer.threshold}")


def _whole_number(value: object) -> object:
    """Of what JSON may say, only 1 is 1: by Python's leave `true` would be as well."""
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


Result = Annotated[ResultCode, BeforeValidator(_whole_number)]


class Verdict(Reply):
    """What the service decided of an image: pass, fail or review."""

    result: Result

    @property
    def passed(self) -> bool:
        """Whether the part is good; review is not."""
        return self.result == 1

    @property
    def picture(self) -> bytes | None:
        """The PNG that `heatmap` asked for."""
        return None if self.heatmap is None else base64.b64decode(self.heatmap)

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict is neither true nor false; ask whether it has `passed`")

    @model_validator(mode="after")
    def _is_evaluated(self) -> Self:
        _check(self)
        if self.result not in _WORDS:
            raise ValueError(f"result {self.result} is no verdict")
        if self.heatmap is not None:
            try:
                base64.b64decode(self.heatmap, validate=True)
            except binascii.Error as error:
                raise ValueError("the heatmap is not base64") from error
        return self


class ProblemDocument(BaseModel):
    """The body of an error, RFC 9457."""

    v: Literal[1]
    trigger: int | None
    result: Literal[0, 3]
    code: int
    title: str
    status: int
    detail: str
    field: str | None = None
    id: str | None = None


class GrainVerdict(BaseModel):
    """What the service decided of several faces of one grain: pass only where every one of them passed."""

    model_config = ConfigDict(frozen=True)

    v: Literal[1]
    trigger: int | None
    result: Result
    code: int
    verdict: VerdictWord
    faces: tuple[Verdict | ProblemDocument, ...]
    """In the order of the images: a verdict each, or why there is none."""
    ms: float

    @property
    def passed(self) -> bool:
        """Whether every face is good."""
        return self.result == 1

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict is neither true nor false; ask whether it has `passed`")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        worst = min((face.result for face in self.faces), key=WORST_FIRST.index, default=None)
        if self.result != worst:
            raise ValueError(f"result {self.result} of faces whose worst is {worst}")
        word = _WORDS.get(self.result, "not_evaluated")
        if self.verdict != word or (self.code == 0) != (self.result in _WORDS):
            raise ValueError(f"result {self.result}, code {self.code} and verdict {self.verdict!r} contradict")
        return self


class _Recorded(Decision):
    result: Result

    @property
    def passed(self) -> bool:
        """Whether the part was good; review is not."""
        return self.result == 1

    def __bool__(self) -> NoReturn:
        raise TypeError("a record is neither true nor false; ask whether it has `passed`")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _check(self)
        return self


class Record(_Recorded, RecordDocument):
    """An inspection read back; unlike a `Verdict` it may be one that failed."""


class ListedInspection(_Recorded, ListedRecord):
    """An inspection of a list; like a `Record`, but for whether its image is kept."""


class InspectionPage(BaseModel):
    """A page of a list, newest first."""

    model_config = ConfigDict(frozen=True)

    items: tuple[ListedInspection, ...]
    next: str | None
    """Cursor of the page that follows; `None` after the last one."""


class InspectionEvent(_Recorded):
    """An inspection that was recorded just now; its `id` is what a stream can be resumed after."""


class Liveness(BaseModel):
    """The answer of `/livez`."""

    model_config = ConfigDict(frozen=True)

    status: Literal["alive"]


class Readiness(BaseModel):
    """The answer of `/readyz` of a service that accepts inspections."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ready"]
    bundle: str
    """`name/version` of the bundle."""
    digest: str
    """sha256 of its manifest."""
    restarting: tuple[str, ...] = ()
    """Workers that ended and are not back yet; the others serve meanwhile."""
