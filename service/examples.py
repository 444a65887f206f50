"""What the OpenAPI document says of the inspection route beyond its types; the tests run every example."""

from typing import Any, Final

from service import problems
from service.fields import FIELD_NAMES, HEADER_PREFIX, Fields
from service.problems import MEDIA_TYPE, Kind, ProblemDocument
from service.reply import Reply
from service.submission import IMAGE_PART, MAX_FACES

REPLY_QUERY: Final = {"trigger": "123", "station": "s1", "lot": "L7", "serial": "A0001"}
"""The fields that `REPLY` answers."""

REPLY: Final[dict[str, Any]] = {
    "v": 1,
    "trigger": 123,
    "result": 2,
    "code": 0,
    "verdict": "fail",
    "score": 1.5625,
    "threshold": 1.0,
    "ms": 9.1,
    "id": "01JD8Z7Q4N5R6S7T8V9W0X1Y2Z",
    "recipe": "tec-grain",
    "recipe_version": 1,
    "model": "tec-grain-demo",
    "model_version": "1",
    "station": "s1",
    "lot": "L7",
    "serial": "A0001",
    "regions": [{"x": 96, "y": 64, "width": 32, "height": 32, "area": 1004, "peak": 1.5625}],
    "timing_ms": {"decode": 0.4, "queue": 0.1, "inference": 8.2, "record": 0.3, "total": 9.1},
    "replayed": False,
}


def _problem(kind: Kind, detail: str, trigger: int | None = 123, **extensions: str) -> dict[str, Any]:
    return problems.document(kind, detail, trigger, **extensions)


PROBLEMS: Final[dict[str, dict[str, Any]]] = {
    "empty body": _problem(
        problems.NOT_AN_IMAGE, "the body is empty; send an image file, bare pixels or a form with an image part"
    ),
    "text": _problem(
        problems.NOT_AN_IMAGE, "the 5 bytes are not a JPEG, PNG, BMP or TIFF image, or their header is damaged"
    ),
    "too many pixels": _problem(
        problems.TOO_LARGE, "the PNG image has 10000x6000 pixels; at most 40000000 are allowed"
    ),
    "tiny image": _problem(
        problems.UNUSABLE_IMAGE,
        "size gate of recipe 'tec-grain': the image is 1x1 pixels, each side needs at least 32",
    ),
    "wrong field": _problem(
        problems.WRONG_FIELD,
        "deadline_ms: Input should be greater than or equal to 0 (got '-1')",
        field="deadline_ms",
    ),
    "unknown recipe": _problem(problems.UNKNOWN, "there is no recipe 'nut'; have: tec-grain"),
    "key reused": _problem(
        problems.KEY_REUSED,
        "inspection 01JD8Z7Q4N5R6S7T8V9W0X1Y2Z has the same idempotency key but another image; "
        "a new image needs a new key, or a new trigger",
    ),
    "no key": _problem(problems.UNAUTHORIZED, "send an API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`"),
    "page of another site": _problem(
        problems.FORBIDDEN, "pages of 'http://elsewhere.example' may not use this service"
    ),
    "overloaded": _problem(problems.OVERLOADED, "65 inspections are under way, which is the limit; try again"),
    "too often": _problem(problems.RATE_LIMITED, "more than 0.01 requests a second; try again in 100 s"),
    "draining": _problem(problems.NOT_READY, "the service is shutting down"),
    "deadline passed": _problem(
        problems.DEADLINE_PASSED, "no verdict 20.3 ms after arrival, when the deadline had passed"
    ),
    "engine failed": _problem(problems.FAILED, "the engine failed: RuntimeError", id="01JD8Z7Q4N5R6S7T8V9W0X1Y2Z"),
}
"""What goes wrong, and the answer to it."""

RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}
}

_LINE: Final = "2;0;123;1562500;01JD8Z7Q4N5R6S7T8V9W0X1Y2Z\n"


def _problem_responses() -> dict[int | str, dict[str, Any]]:
    responses: dict[int | str, dict[str, Any]] = {}
    for name, value in PROBLEMS.items():
        response = responses.setdefault(
            value["status"],
            {
                "description": value["title"],
                "model": ProblemDocument,
                "content": {MEDIA_TYPE: {"examples": {}}, "text/plain": {"schema": {"type": "string"}}},
            },
        )
        if value["code"] == problems.OVERLOADED.code:
            response["headers"] = RETRY_AFTER
        response["content"][MEDIA_TYPE]["examples"][name] = {"value": value}
    return responses


RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The verdict",
        "model": Reply,
        "content": {
            "application/json": {"example": REPLY},
            "text/plain": {"schema": {"type": "string"}, "example": _LINE},
        },
    },
    **_problem_responses(),
}
NOT_READY: Final[dict[int | str, dict[str, Any]]] = {
    503: {"model": ProblemDocument, "description": problems.NOT_READY.title, "headers": RETRY_AFTER}
}
READING: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": ProblemDocument, "description": problems.UNKNOWN.title},
    **NOT_READY,
}
READING_BY_NAME: Final[dict[int | str, dict[str, Any]]] = {
    **READING,
    422: {"model": ProblemDocument, "description": problems.WRONG_FIELD.title},
}
CHANGING: Final[dict[int | str, dict[str, Any]]] = {
    **READING_BY_NAME,
    500: {"model": ProblemDocument, "description": problems.FAILED.title},
}


def _field_schema(name: str) -> dict[str, Any]:
    schema = dict(Fields.model_json_schema()["properties"][name])
    choices = [choice for choice in schema.pop("anyOf", []) if choice != {"type": "null"}]
    if choices:
        schema = {**choices[0], **schema}
    return {key: value for key, value in schema.items() if key not in {"title", "description", "default"}}


def _parameters() -> list[dict[str, Any]]:
    parameters = []
    for name in FIELD_NAMES:
        header = HEADER_PREFIX + name.replace("_", "-")
        description = f"{Fields.model_fields[name].description} Also as header `{header}` or as a part of the form."
        parameters.append({"name": name, "in": "query", "description": description, "schema": _field_schema(name)})
    key = Fields.model_fields["idempotency_key"].description
    schema = _field_schema("idempotency_key")
    return [*parameters, {"name": "Idempotency-Key", "in": "header", "description": key, "schema": schema}]


_BINARY: Final = {"type": "string", "format": "binary"}

REQUEST: Final[dict[str, Any]] = {
    "parameters": _parameters(),
    "requestBody": {
        "required": True,
        "description": "A JPEG, PNG, BMP or TIFF file, whatever the Content-Type says; bare pixels, where `width`, "
        f"`height` and `format` are given; or a form with the part `{IMAGE_PART}`.",
        "content": {
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [IMAGE_PART],
                    "properties": {IMAGE_PART: _BINARY, **{name: _field_schema(name) for name in FIELD_NAMES}},
                }
            },
        },
    },
}

BATCH_REQUEST: Final[dict[str, Any]] = {
    "parameters": _parameters(),
    "requestBody": {
        "required": True,
        "description": f"A form with a part `{IMAGE_PART}` for each face, {MAX_FACES} at most; the fields are shared.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [IMAGE_PART],
                    "properties": {
                        IMAGE_PART: {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": MAX_FACES},
                        **{name: _field_schema(name) for name in FIELD_NAMES},
                    },
                }
            },
        },
    },
}
