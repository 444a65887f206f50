"""The Open Inference Protocol, version 2: scores for clients that speak it, such as `tritonclient`.

These are no inspections: nothing is recorded, there is no replay and no archive, and no part may be passed on them.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version as version_of
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from atsnet.imaging import UInt8Array
from service.body import BodyReader
from service.disconnect import cancelled_by_disconnect
from service.open_inference import (
    LENGTH_HEADER,
    ErrorDocument,
    InferRequest,
    ModelMetadata,
    OpenInferenceError,
    Tensor,
    TensorMetadata,
    decode_request,
    encode_answer,
)
from service.problems import DEADLINE_PASSED, FAILED, NOT_READY, Problem, headers_of, unexpected
from service.recipes import Recipe
from service.refusals import RETRY_AFTER_S
from service.routes.station import station_of
from service.scoring import TOO_LATE, FrameScore, Scoring
from service.verdict import judge

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_OUTPUTS: Final = ("score", "calibrated_score", "verdict", "anomaly_map")
_DEFAULT_OUTPUTS: Final = {"images": ("score", "anomaly_map"), "image": ("verdict", "score", "calibrated_score")}
_LARGE: Final = 64 * 1024
"""Bytes of a body from which reading it is for a thread."""


class _Route(APIRoute):
    """A route whose errors are this protocol's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except OpenInferenceError as error:
                return _error(str(error), error.status)
            except Problem as problem:
                return _error(problem.detail, problem.kind.status, headers_of(problem))
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception:
                log.exception("unexpected_error", path=request.url.path)
                return _error(unexpected().detail, FAILED.status)

        return answer


def _error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps({"error": message}), status, headers, media_type="application/json")


_NOT_READY: Final[dict[int | str, dict[str, Any]]] = {503: {"model": ErrorDocument, "description": NOT_READY.title}}
_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": ErrorDocument, "description": "There is no such model"},
    **_NOT_READY,
}
_INFER: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/json": {}, "application/octet-stream": {}}, "description": "The outputs"},
    400: {"model": ErrorDocument, "description": "The request is not as protocol and model want it"},
    413: {"model": ErrorDocument, "description": "The body, its JSON document or an image is too large"},
    422: {"model": ErrorDocument, "description": "An image is unusable"},
    429: {"model": ErrorDocument, "description": "Too many inspections are waiting"},
    500: {"model": ErrorDocument, "description": "The engine failed"},
    504: {"model": ErrorDocument, "description": "The deadline passed"},
    **_UNKNOWN,
}

router = APIRouter(prefix="/v2", tags=["open inference protocol"], route_class=_Route)


@router.get("", summary="What the server is")
async def server() -> dict[str, str | list[str]]:
    """Name, version and extensions."""
    return {"name": "atsnet", "version": version_of("atsnet"), "extensions": ["binary_tensor_data"]}


@router.get("/health/live", summary="The process answers", response_class=Response)
async def live() -> Response:
    """200 as long as the process can answer at all."""
    return Response()


@router.get("/health/ready", summary="Requests are accepted", response_class=Response, responses=_NOT_READY)
async def ready(request: Request) -> Response:
    """200 when the bundle is loaded and requests are accepted."""
    station_of(request).check_ready()
    return Response()


@router.get("/models/{name}", summary="What a model takes and gives", responses=_UNKNOWN)
@router.get("/models/{name}/versions/{version}", summary="What a model takes and gives", responses=_UNKNOWN)
async def model(request: Request, name: str, version: str | None = None) -> ModelMetadata:
    """Inputs and outputs of the bundle that inspects. A request has one input: `images` or `image`."""
    served = _scoring(request, name, version).model
    return ModelMetadata(
        name=served.name,
        versions=(served.version,),
        platform="atsnet",
        inputs=(
            TensorMetadata(name="images", datatype="UINT8", shape=(-1, *served.geometry.frame_shape)),
            TensorMetadata(name="image", datatype="BYTES", shape=(-1,)),
        ),
        outputs=(
            TensorMetadata(name="score", datatype="FP32", shape=(-1,)),
            TensorMetadata(name="calibrated_score", datatype="FP32", shape=(-1,)),
            TensorMetadata(name="verdict", datatype="BYTES", shape=(-1,)),
            TensorMetadata(name="anomaly_map", datatype="FP32", shape=(-1, *served.map_size)),
        ),
    )


@router.get("/models/{name}/ready", summary="A model is ready", response_class=Response, responses=_UNKNOWN)
@router.get(
    "/models/{name}/versions/{version}/ready",
    summary="A model is ready",
    response_class=Response,
    responses=_UNKNOWN,
)
async def model_ready(request: Request, name: str, version: str | None = None) -> Response:
    """200 when requests for the model are accepted."""
    station_of(request).check_ready()
    _scoring(request, name, version)
    return Response()


@router.post("/models/{name}/infer", summary="Score frames or images", response_class=Response, responses=_INFER)
@router.post(
    "/models/{name}/versions/{version}/infer",
    summary="Score frames or images",
    response_class=Response,
    responses=_INFER,
)
async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Score a batch, JSON or binary tensors. **Not an inspection**: nothing is recorded.

    Input `images`, UINT8 `[N, H, W, C]`: frames as the network takes them, the inspect mask as the last channel. Input
    `image`, BYTES `[N]`: image files; in JSON as base64. Parameters: `timeout` in microseconds, `recipe`.
    """
    arrival = time.monotonic()
    station = station_of(request)
    body = BodyReader(request, station.settings.max_body_bytes)
    try:
        with station.admitted(), (scoring := _scoring(request, name, version)).at_one_time():
            deadline = arrival + station.settings.deadline_ms / 1000
            content = await _content(request, body, deadline)
            asked = await _decode(content, request.headers.get(LENGTH_HEADER), scoring)
            deadline = min(deadline, arrival + _timeout_s(asked))
            if asked.count > station.max_in_flight:
                limit = f"at most {station.max_in_flight} may be under way at once (setting queue_size)"
                raise OpenInferenceError(f"the request has {asked.count} images; {limit}")
            with station.admitted_further(asked.count - 1):
                async with cancelled_by_disconnect(request.receive):
                    outputs = await _infer(scoring, asked, deadline)
    except (Problem, OpenInferenceError) as error:
        if isinstance(error, Problem) and error.kind is DEADLINE_PASSED:
            station.metrics.deadline_missed()
        log.warning("inference_refused", detail=str(error))
        await body.discard()
        raise
    except asyncio.CancelledError:  # the server stops, and its patience is at an end
        detail = "the service shut down before the inference was finished"
        raise Problem(NOT_READY, detail, retry_after_s=RETRY_AFTER_S) from None
    answer, headers = encode_answer(asked, scoring.model.name, scoring.model.version, outputs)
    return Response(answer, headers={**headers, "Cache-Control": "no-store"})


@router.api_route("/{path:path}", methods=["GET", "POST"], include_in_schema=False)
async def unknown(path: str) -> Response:
    """What else Triton has: memory that is shared with the client, models to load and unload, statistics."""
    if "sharedmemory" in path:
        raise OpenInferenceError("shared memory is not supported; send and receive the data itself")
    raise OpenInferenceError(f"/v2/{path[:200]} is not offered; see /docs", 404)


def _scoring(request: Request, name: str, version: str | None) -> Scoring:
    """What scores with that model.

    Raises:
        OpenInferenceError: It is not the one that is served.
        Problem: Code 40: there is none yet.
    """
    scoring = station_of(request).equipment.scoring
    served = scoring.model
    if name != served.name or version not in (None, served.version):
        asked = name if version is None else f"{name}/{version}"
        raise OpenInferenceError(f"there is no model {asked[:160]!r}; have: {served.name}/{served.version}", 404)
    return scoring


async def _content(request: Request, body: BodyReader, deadline: float) -> bytes:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise OpenInferenceError(f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is", 415)
    try:
        async with asyncio.timeout_at(deadline):
            return await body.read()
    except TimeoutError:
        raise Problem(DEADLINE_PASSED, "the deadline passed before the body was complete") from None


async def _decode(content: bytes, header_length: str | None, scoring: Scoring) -> InferRequest:
    shape = scoring.model.geometry.frame_shape
    if len(content) > _LARGE:
        return await asyncio.to_thread(decode_request, content, header_length, shape)
    return decode_request(content, header_length, shape)


def _timeout_s(asked: InferRequest) -> float:
    timeout_us = asked.parameters.get("timeout")
    if timeout_us is None:
        return float("inf")
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        raise OpenInferenceError(f"timeout is {str(timeout_us)[:40]}; expected microseconds, an integer from 0")
    return timeout_us / 1_000_000 or float("inf")


async def _infer(scoring: Scoring, asked: InferRequest, deadline: float) -> dict[str, Tensor]:
    given = "image" if isinstance(asked.tensor, list) else "images"
    names = tuple(output.name for output in asked.outputs) or _DEFAULT_OUTPUTS[given]
    for name in names:
        if name not in _OUTPUTS:
            raise OpenInferenceError(f"there is no output {name[:80]!r}; have: {', '.join(map(repr, _OUTPUTS))}")
    named = asked.parameters.get("recipe")
    recipe = scoring.recipe(None if named is None else str(named)[:200])
    frames: Sequence[UInt8Array]
    if isinstance(asked.tensor, list):
        frames = await _all([scoring.frame(image, recipe, deadline) for image in asked.tensor])
    else:
        frames = list(asked.tensor)
    if time.monotonic() >= deadline:
        raise Problem(DEADLINE_PASSED, TOO_LATE)
    scores = await _all([scoring.score(frame, deadline) for frame in frames])
    return {name: _output(name, scores, recipe) for name in names}


async def _all(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All results, or the first error; nothing goes on after it."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _output(name: str, scores: Sequence[FrameScore], recipe: Recipe) -> Tensor:
    match name:
        case "score":
            return np.array([each.score for each in scores], np.float32)
        case "calibrated_score":
            return np.array([each.calibrated for each in scores], np.float32)
        case "anomaly_map":
            return np.stack([each.anomaly_map for each in scores])
        case _:
            return [judge(each.calibrated, 1.0, recipe).verdict.encode() for each in scores]
