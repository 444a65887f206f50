from collections.abc import Sequence
from itertools import product

import pytest

from service.faces import Face, document_of, join
from service.problems import DEADLINE_PASSED, FAILED, NOT_AN_IMAGE, UNUSABLE_IMAGE, Problem
from service.reply import Reply, ResultCode, Timing, VerdictWord
from service.verdict import RESULTS

NO_TIME = Timing(decode=0, queue=0, inference=0, record=0, total=0)


def reply(verdict: VerdictWord, score: float | None = 0.5, *, result: ResultCode | None = None, code: int = 0) -> Reply:
    return Reply(
        trigger=1,
        result=RESULTS[verdict] if result is None else result,
        code=code,
        verdict=verdict,
        score=score,
        threshold=1.0,
        ms=0,
        id="01JD8Z7Q4N5R6S7T8V9W0X1Y2Z",
        recipe="r",
        recipe_version=1,
        model="m",
        model_version="1",
        station=None,
        lot=None,
        serial=None,
        regions=(),
        timing_ms=NO_TIME,
        replayed=False,
    )


PASS, REVIEW, FAIL = reply("pass"), reply("review", 0.9), reply("fail", 1.5)
BAD, LATE, ERROR = Problem(NOT_AN_IMAGE, "bad"), Problem(DEADLINE_PASSED, "late"), Problem(FAILED, "error")
RECORDED_ERROR = reply("not_evaluated", None, result=3, code=50)


@pytest.mark.parametrize(
    ("faces", "result", "code", "verdict", "decided_by"),
    [
        ([PASS, PASS], 1, 0, "pass", 0),
        ([PASS, REVIEW, PASS], 4, 0, "review", 1),
        ([REVIEW, BAD], 0, 10, "not_evaluated", 1),
        ([BAD, LATE], 0, 10, "not_evaluated", 0),
        ([BAD, ERROR], 3, 50, "not_evaluated", 1),
        ([PASS, RECORDED_ERROR, BAD], 3, 50, "not_evaluated", 1),
        ([ERROR, BAD, REVIEW, FAIL, PASS], 2, 0, "fail", 3),
        ([reply("fail", 1.2), reply("fail", 1.7), reply("fail", 1.7)], 2, 0, "fail", 1),
        ([reply("pass", 0.2), reply("pass", 0.7)], 1, 0, "pass", 1),
        ([ERROR], 3, 50, "not_evaluated", 0),
    ],
)
def test_worst_face_decides(
    faces: Sequence[Face], result: int, code: int, verdict: VerdictWord, decided_by: int
) -> None:
    joint = join(faces)
    assert (joint.result, joint.code, joint.verdict, joint.decided_by) == (result, code, verdict, decided_by)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_passes_only_where_every_face_passed(count: int) -> None:
    kinds: list[Face] = [PASS, REVIEW, FAIL, BAD, LATE, ERROR, RECORDED_ERROR]
    for faces in product(kinds, repeat=count):
        joint = join(faces)
        passed = all(face is PASS for face in faces)
        assert (joint.result == 1) is passed
        assert (joint.verdict == "pass") is passed
        # What decided it says the same as the joint verdict does.
        assert join([faces[joint.decided_by]]).result == joint.result


def test_face_without_a_verdict_is_the_problem_that_it_would_have_been_alone() -> None:
    problem = Problem(UNUSABLE_IMAGE, "too dark", extensions={"id": "x"})
    document = document_of(problem, 7, with_heatmap=False)
    assert (document["trigger"], document["result"], document["code"], document["status"]) == (7, 0, 12, 422)
    assert (document["detail"], document["id"]) == ("too dark", "x")
    assert "heatmap" not in document_of(PASS, 7, with_heatmap=False)
    assert document_of(PASS, 7, with_heatmap=True)["heatmap"] is None
