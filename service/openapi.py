"""The OpenAPI document, corrected where the framework cannot know how this service answers."""

from typing import Any, Final

from fastapi import FastAPI

from service.examples import RETRY_AFTER
from service.problems import FORBIDDEN, MEDIA_TYPE, RATE_LIMITED, UNAUTHORIZED
from service.security.roles import Role, least_role

_PROBLEM: Final = {"$ref": "#/components/schemas/ProblemDocument"}
_FOREIGN_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as `atsnet keys new` makes it."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, for simpler clients."},
}


def install(app: FastAPI) -> None:
    """Make the application's document say that errors are problems, and which routes take a key.

    What the framework says of its own errors is left out.
    """
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            generated = generate()
            for path, operations in generated["paths"].items():
                for method, operation in operations.items():
                    _correct(operation["responses"])
                    _guard(operation, least_role(method.upper(), path))
            generated["components"]["securitySchemes"] = _SCHEMES
            for name in _FOREIGN_SCHEMAS:
                generated["components"]["schemas"].pop(name, None)
        return generate()

    app.openapi = document  # type: ignore[method-assign]


def _correct(responses: dict[str, Any]) -> None:
    for status, response in list(responses.items()):
        content = response.get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        if schema == _PROBLEM:
            del content["application/json"]
            content.setdefault(MEDIA_TYPE, {})["schema"] = schema
        elif schema.get("$ref", "").endswith("/HTTPValidationError"):
            del responses[status]


def _guard(operation: dict[str, Any], role: Role) -> None:
    """Say that a route takes a key, where keys are set up, and how it refuses those without."""
    if role is Role.ANYONE:
        return
    operation["security"] = [*({scheme: []} for scheme in _SCHEMES), {}]
    operation["description"] = f"{operation.get('description', '')}\n\nLeast role: `{role.word}`.".lstrip()
    for kind in (UNAUTHORIZED, FORBIDDEN, RATE_LIMITED):
        response = operation["responses"].setdefault(str(kind.status), {"description": kind.title})
        response.setdefault("content", {}).setdefault(MEDIA_TYPE, {})["schema"] = _PROBLEM
        if kind is RATE_LIMITED:
            response["headers"] = RETRY_AFTER
