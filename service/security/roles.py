"""What each role may do: one table, and whatever it does not list takes the highest role."""

from enum import IntEnum
from types import MappingProxyType
from typing import Final


class Role(IntEnum):
    """Each may do what those before it may; `anyone` is who has no key."""

    ANYONE = 0
    MONITOR = 1
    LINE = 2
    OPERATOR = 3
    ENGINEER = 4

    @property
    def word(self) -> str:
        """Its name in key files and messages."""
        return self.name.lower()


ROLES: Final = MappingProxyType({role.word: role for role in Role if role is not Role.ANYONE})
"""Those that a key may have, by their words."""

ACCESS: Final = MappingProxyType(
    {
        # What a probe, and a person who reads the manual, may ask.
        "GET /livez": Role.ANYONE,
        "GET /readyz": Role.ANYONE,
        "GET /docs": Role.ANYONE,
        "GET /docs/oauth2-redirect": Role.ANYONE,
        "GET /openapi.json": Role.ANYONE,
        "GET /static-offline-docs/{file}": Role.ANYONE,
        # Prometheus counts, and can neither inspect nor read what was.
        "GET /metrics": Role.MONITOR,
        # A controller inspects and reads back what it inspected, whose ids it was told. It lists nothing.
        "POST /v1/inspections": Role.LINE,
        "POST /v1/inspections:batch": Role.LINE,
        "GET /v1/inspections/{id}": Role.LINE,
        "GET /v1/inspections/{id}/image": Role.LINE,
        "GET /v1/inspections/{id}/heatmap.png": Role.LINE,
        "GET /v1/inspections/{id}/overlay.png": Role.LINE,
        "GET /v2": Role.LINE,
        "GET /v2/health/live": Role.LINE,
        "GET /v2/health/ready": Role.LINE,
        "GET /v2/models/{name}": Role.LINE,
        "GET /v2/models/{name}/ready": Role.LINE,
        "GET /v2/models/{name}/versions/{version}": Role.LINE,
        "GET /v2/models/{name}/versions/{version}/ready": Role.LINE,
        "POST /v2/models/{name}/infer": Role.LINE,
        "POST /v2/models/{name}/versions/{version}/infer": Role.LINE,
        # A person at the line sees everything, gives a second opinion and may ask whether the service is in order.
        "GET /v1/inspections": Role.OPERATOR,
        "PUT /v1/inspections/{id}/review": Role.OPERATOR,
        "GET /v1/events": Role.OPERATOR,
        "GET /v1/recipes": Role.OPERATOR,
        "GET /v1/recipes/{name}": Role.OPERATOR,
        "GET /v1/recipes/{name}/drift": Role.OPERATOR,
        "GET /v1/models": Role.OPERATOR,
        "POST /v1/models/self-test": Role.OPERATOR,
        # What changes verdicts to come, or shows what would.
        "POST /v1/recipes": Role.ENGINEER,
        "POST /v1/recipes/{name}/activate": Role.ENGINEER,
        "POST /v1/recipes/{name}/preview": Role.ENGINEER,
        "POST /v1/recipes/{name}/drift/reset": Role.ENGINEER,
        "POST /v1/models/{name}/{version}/activate": Role.ENGINEER,
    }
)
"""The least role of each route; a part in braces stands for anything but a slash."""


def least_role(method: str, path: str) -> Role:
    """The role that a request takes; the highest where the table says nothing, so that a new route starts closed.

    Args:
        method: As in the request, upper case. What may be read may be asked about with HEAD.
        path: Decoded, without the query, as the application's routes see it.
    """
    role = _EXACT.get((method, path))
    if role is not None:
        return role
    if method == "HEAD":
        return least_role("GET", path)
    parts = path.split("/", _MOST_PARTS)
    for pattern, allowed in _PATTERNS.get((method, len(parts)), ()):
        if all(
            bool(part) if expected is None else part == expected for expected, part in zip(pattern, parts, strict=True)
        ):
            return allowed
    return Role.ENGINEER


_EXACT: Final[dict[tuple[str, str], Role]] = {}
_PATTERNS: Final[dict[tuple[str, int], list[tuple[tuple[str | None, ...], Role]]]] = {}
"""By method and number of parts; None stands for any part."""

for _rule, _role in ACCESS.items():
    _method, _path = _rule.split(" ")
    if "{" in _path:
        _parts = tuple(None if part.startswith("{") else part for part in _path.split("/"))
        _PATTERNS.setdefault((_method, len(_parts)), []).append((_parts, _role))
    else:
        _EXACT[_method, _path] = _role

_MOST_PARTS: Final = max(number for _, number in _PATTERNS)
"""Longer paths are cut no further: they are in no rule."""
