"""One verdict on a grain of which several faces were inspected: it passes only where every face passed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from service import problems
from service.problems import Problem, ProblemDocument
from service.reply import Reply, ResultCode, VerdictWord

Face = Reply | Problem
"""What became of one face: its verdict, or why it has none."""

_WORST_FIRST: Final[tuple[ResultCode, ...]] = (2, 3, 0, 4, 1)
"""A defect that was seen outweighs a face that was not: fail, error, not evaluated, review, pass."""


@dataclass(frozen=True, slots=True)
class Joint:
    """The verdict on all faces, and the face that decided it."""

    result: ResultCode
    code: int
    verdict: VerdictWord
    decided_by: int
    """Index of the first face with the worst result; of several with a score, that with the greatest."""


def join(faces: Sequence[Face]) -> Joint:
    """The joint verdict on the faces of one grain, at least one.

    Fail if any fails, else error if any is one, else not evaluated if any is not, else review if any is for review:
    pass is what is left when every single face passed.
    """
    decided_by = min(range(len(faces)), key=lambda index: (_rank(faces[index]), -score_of(faces[index]), index))
    face = faces[decided_by]
    if isinstance(face, Problem):
        return Joint(face.kind.result, face.kind.code, "not_evaluated", decided_by)
    return Joint(face.result, face.code, face.verdict, decided_by)


def score_of(face: Face) -> float:
    """The calibrated score of a face, minus infinity where it has none."""
    return float("-inf") if isinstance(face, Problem) or face.score is None else face.score


def document_of(face: Face, trigger: int | None, *, with_heatmap: bool) -> dict[str, Any]:
    """The JSON document of a face: its reply, or the problem document that it would have got alone."""
    if isinstance(face, Problem):
        return problems.document(face.kind, face.detail, trigger, **face.extensions)
    return face.document(with_heatmap=with_heatmap)


def _rank(face: Face) -> int:
    return _WORST_FIRST.index(face.kind.result if isinstance(face, Problem) else face.result)


class BatchReply(BaseModel):
    """The answer to a batch of faces."""

    v: Literal[1] = 1
    trigger: int | None = Field(description="As in the request.")
    result: ResultCode = Field(
        description="2 if any face fails, else 3 if any is an error, else 0 if any was not evaluated, else 4 if any is "
        "for review, else 1: every face passed."
    )
    code: int = Field(description="Reason, of the face that decided the result; 0 where that was evaluated.")
    verdict: VerdictWord
    faces: tuple[Reply | ProblemDocument, ...] = Field(
        description="In the order of the parts: the answer that each would have got alone."
    )
    ms: float = Field(ge=0, description="From the arrival of the request's head to its answer.")
