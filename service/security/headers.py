"""What browsers are told about our answers: nothing in them may run, be framed, be guessed at or be told on."""

import base64
import hashlib
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PAGES: Final = frozenset({"/docs", "/docs/oauth2-redirect"})
"""Pages of the framework with scripts in them. They are made of constants: nothing that a client sent is in them."""

_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _NOTHING.encode()),
)
"""No Strict-Transport-Security: it would hold for every port of this machine, dashboards without TLS among them."""


class SecurityHeaders:
    """Adds the headers to every answer that does not have them itself.

    The pages of the documentation may run their own scripts and no others: those in the page are named by their hashes
    in its Content-Security-Policy.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _complete(message)
            await send(message)

        page = scope["path"] in _PAGES
        await self._app(scope, receive, _PageSender(with_headers) if page else with_headers)


class _PageSender:
    """Holds a page's head back until its body is there, and with it the scripts to allow."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._body: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(self._body)
        policy = page_policy(body).encode()
        headers = [*self._start["headers"], (b"content-security-policy", policy)]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=8)
def page_policy(page: bytes) -> str:
    """The Content-Security-Policy of a page of ours: its own scripts, and files of this service."""
    scripts = _InlineScripts()
    scripts.feed(page.decode())
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts.found
    )
    return (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


class _InlineScripts(HTMLParser):
    """Finds the texts of scripts without a source."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script" and "src" not in dict(attrs):
            self._inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def _complete(start: Message) -> None:
    headers: list[Any] = list(start.get("headers", ()))
    present = {name.lower() for name, _ in headers}
    start["headers"] = [*headers, *(pair for pair in _ALWAYS if pair[0] not in present)]
