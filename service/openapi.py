"""The OpenAPI document, corrected where the framework cannot know how this service answers."""

from typing import Any, Final

from fastapi import FastAPI

from service.problems import MEDIA_TYPE

_PROBLEM: Final = {"$ref": "#/components/schemas/ProblemDocument"}
_FOREIGN_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Make the application's document say that errors are problems, and leave out the framework's own errors."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            generated = generate()
            for path in generated["paths"].values():
                for operation in path.values():
                    _correct(operation["responses"])
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
