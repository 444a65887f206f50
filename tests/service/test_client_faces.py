import asyncio
from typing import Any

import pytest
from client_answers import Told, answer, busy
from serving import DEFECTIVE, GOOD, Line, defective_image, good_image

from service import faces
from service.client import (
    AsyncInspectionClient,
    FieldError,
    GrainVerdict,
    InspectionClient,
    KeyReusedError,
    NotEvaluated,
    Pixels,
    ProblemDocument,
    Retries,
    Verdict,
)
from service.client.answers import WORST_FIRST
from service.examples import PROBLEMS, REPLY

PART: dict[str, Any] = {"station": "s1", "serial": "A1", "trigger": 1}
FACE = {**REPLY, "result": 1, "verdict": "pass", "score": 0.5, "regions": []}
ASKED: dict[str, Any] = {"trigger": 123, "station": "s1", "lot": "L7", "serial": "A0001"}
BATCH = {"v": 1, "trigger": 123, "result": 1, "code": 0, "verdict": "pass", "faces": [FACE, FACE], "ms": 1.0}


def told(document: object, **options: Any) -> GrainVerdict:
    service = Told(answer(document))
    with InspectionClient("http://station", transport=service, retries=Retries(most=0)) as client:
        return client.inspect_faces([GOOD, GOOD], **{**ASKED, **options})


@pytest.mark.parametrize(
    ("images", "result", "word"),
    [
        ([GOOD, GOOD], 1, "pass"),
        ([GOOD, DEFECTIVE, b"no image"], 2, "fail"),
        ([GOOD, b"no image"], 0, "not_evaluated"),
    ],
    ids=["pass", "fail", "not evaluated"],
)
def test_grain_is_judged_by_its_worst_face(line: Line, images: list[bytes], result: int, word: str) -> None:
    with InspectionClient(line.url) as client:
        grain = client.inspect_faces(images, lot="L7", **PART, deadline_ms=20_000)
    assert (grain.result, grain.verdict, grain.passed, grain.trigger) == (result, word, result == 1, 1)
    kinds = [Verdict if image in (GOOD, DEFECTIVE) else ProblemDocument for image in images]
    assert [type(face) for face in grain.faces] == kinds
    assert isinstance(grain.faces[0], Verdict)
    assert (grain.faces[0].lot, grain.faces[0].serial) == ("L7", "A1")


def test_bare_pixels_of_one_layout(line: Line) -> None:
    with InspectionClient(line.url) as client:
        pixels = [Pixels(image.tobytes(), 256, 256, "mono8") for image in (good_image(), defective_image())]
        grain = client.inspect_faces(pixels)
        assert [face.result for face in grain.faces] == [1, 2]
        with pytest.raises(ValueError, match="of one layout"):
            client.inspect_faces([pixels[0], GOOD])
        with pytest.raises(ValueError, match="at least one image"):
            client.inspect_faces([])


def test_retry_is_replayed(line: Line) -> None:
    async def scenario() -> None:
        async with AsyncInspectionClient(line.url) as client:
            first, second = [await client.inspect_faces([GOOD, DEFECTIVE], **PART) for _ in range(2)]
            ids = [[face.id for face in grain.faces] for grain in (first, second)]
            assert ids[0] == ids[1]
            with pytest.raises(KeyReusedError):
                await client.inspect_faces([GOOD], **PART)

    asyncio.run(scenario())


def test_refusal_as_a_whole(line: Line) -> None:
    with InspectionClient(line.url) as client, pytest.raises(FieldError, match="at most 16"):
        client.inspect_faces([GOOD] * 17)


def test_every_attempt_is_the_same_request() -> None:
    service = Told(busy(), answer(BATCH))
    with InspectionClient("http://station", transport=service, retries=Retries(first_pause_s=0.001)) as client:
        client.inspect_faces([GOOD, GOOD], **ASKED, idempotency_key="k")
        assert [request.headers["Idempotency-Key"] for request in service.requests] == ["k", "k"]
        client.inspect_faces([GOOD, GOOD], **ASKED)
        assert "Idempotency-Key" not in service.requests[-1].headers


def test_clear_answer_passes() -> None:
    assert told(BATCH).passed
    with pytest.raises(TypeError, match="passed"):
        bool(told(BATCH))


FAILED_FACE = {**FACE, "result": 2, "verdict": "fail", "score": 1.5}


@pytest.mark.parametrize(
    "change",
    [
        {"faces": []},
        {"faces": [FACE]},
        {"faces": [FACE] * 3},
        {"faces": [FACE, FAILED_FACE]},
        {"faces": [FACE, PROBLEMS["text"]]},
        {"faces": [FACE, {**FACE, "serial": "A0002"}]},
        {"faces": [FACE, {**FACE, "score": 1.5}]},
        {"faces": [FACE, {}]},
        {"trigger": 124},
        {"result": True},
        {"code": 50},
        {"verdict": "fail"},
        {"v": 2},
    ],
    ids=str,
)
def test_unclear_answer_passes_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(NotEvaluated):
        told({**BATCH, **change})


def test_client_joins_as_the_service_does() -> None:
    assert WORST_FIRST == faces._WORST_FIRST
    assert set(GrainVerdict.model_fields) == set(faces.BatchReply.model_fields)
