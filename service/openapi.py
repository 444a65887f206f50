"""The OpenAPI document, corrected where the framework cannot know how this service answers."""

from typing import Any, Final

from fastapi import FastAPI

from service.problems import MEDIA_TYPE

_PROBLEM: Final = {"$ref": "#/components/schemas/ProblemDocument"}
_FOREIGN_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")


class DocumentedApp(FastAPI):
    """An application whose document says that errors are problems."""

    def openapi(self) -> dict[str, Any]:
        """The document: problems under their media type, and none of the framework's own errors."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path in document["paths"].values():
                for operation in path.values():
                    _correct(operation["responses"])
            for name in _FOREIGN_SCHEMAS:
                document["components"]["schemas"].pop(name, None)
        return super().openapi()


def _correct(responses: dict[str, Any]) -> None:
    for status, response in list(responses.items()):
        content = response.get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        if schema == _PROBLEM:
            del content["application/json"]
            content.setdefault(MEDIA_TYPE, {})["schema"] = schema
        elif schema.get("$ref", "").endswith("/HTTPValidationError"):
            del responses[status]
