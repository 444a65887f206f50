"""Keeps keys out of the logs, whichever way they come there: as a field, as a header, inside a text or a traceback."""

import re
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final

HIDDEN: Final = "[hidden]"

_SECRET_NAMES: Final = frozenset(
    {"authorization", "proxy-authorization", "x-api-key", "api-key", "api-keys", "cookie", "set-cookie", "password"}
    | {"secret", "token", "ssl-keyfile-password"}
)
"""Names of fields and headers, lower case, with hyphens."""

_KEY: Final = re.compile(r"(atsnet_[0-9a-f]{16}_)[A-Za-z0-9_-]+")
"""One of our keys; its id stays readable, since that is how to find whose it is."""
_CREDENTIALS: Final = re.compile(r"(?i)\b(bearer|authorization: *basic)\s+(?!realm=)[A-Za-z0-9._~+/=-]{8,}")


_URL: Final = re.compile(r"(://[^\s/?#@:]*:)[^\s/?#@]+@")
"""The password in an address."""
_TRACES: Final = ("atsnet_", "bearer", "basic", "authorization", "api", "cookie", "password", "secret", "token", "://")
"""One is in every line that holds something to hide: beginnings of keys, schemes, parts of names, addresses."""


def hiding(render: Callable[..., Any]) -> Callable[..., str]:
    """A structlog processor that renders events as `render` does, without secrets.

    It renders first and looks for traces of secrets in the line: lines without any, which is almost all of them, cost
    one look. Else the event's fields are gone through, it is rendered again, and so is what is left in its line.
    """

    def rendered(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        line: str = render(logger, method, dict(event))  # a copy: renderers take events apart
        small = line.lower()
        for trace in _TRACES:
            if trace in small:
                return hide(render(logger, method, {name: _without_secrets(name, event[name]) for name in event}))
        return line

    return rendered


def hide(text: str) -> str:
    """A text without keys and credentials."""
    if "atsnet_" in text:
        text = _KEY.sub(rf"\1{HIDDEN}", text)
    if "://" in text:
        text = _URL.sub(rf"\1{HIDDEN}@", text)
    small = text.lower()
    if "bearer" in small or "basic" in small:
        text = _CREDENTIALS.sub(rf"\1 {HIDDEN}", text)
    return text


def _without_secrets(name: object, value: Any) -> Any:
    if isinstance(name, str | bytes) and is_secret(name):
        return None if value is None else HIDDEN
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, bytes):
        return value if len(value) > _LONGEST_HEADER else hide(value.decode("latin-1")).encode("latin-1")
    if isinstance(value, Mapping):
        return {key: _without_secrets(key, item) for key, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str | bytes):  # a header
        return (value[0], _without_secrets(value[0], value[1]))
    if type(value) in {list, tuple}:  # not of their kinds, such as named tuples, which are made in other ways
        return type(value)(_without_secrets(None, item) for item in value)
    return value


_LONGEST_HEADER: Final = 65_536


@lru_cache(maxsize=1024)
def is_secret(name: str | bytes) -> bool:
    """Whether what has this name is a secret: a field, a header, a setting."""
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    return text.lower().replace("_", "-") in _SECRET_NAMES
