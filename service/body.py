"""The body of a request, never more of it than allowed."""

import asyncio
from typing import Final

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.problems import TOO_LARGE, Problem

_DISCARD_S: Final = 2.0


class BodyReader:
    """Reads one request's body, `max_bytes` at most."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._complete = False

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            Problem: Code 11: it is, or says that it is, larger than allowed.
            ClientDisconnect: The client left before it was complete.
        """
        announced = self._request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large(f"has {announced} bytes")
        chunks: list[bytes] = []
        size = 0
        while not self._complete:
            chunk = await self._receive()
            size += len(chunk)
            if size > self._max_bytes:
                raise self._too_large(f"has more than {self._max_bytes} bytes")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def discard(self) -> None:
        """Take in what the client still sends, for a while, before it is refused.

        A refusal sent against the stream would be lost: the connection is reset under the client while it writes.
        """
        if "expect" in self._request.headers:  # this client waits for our word before it sends anything
            return
        size = 0
        try:
            async with asyncio.timeout(_DISCARD_S):
                while not self._complete and size <= 2 * self._max_bytes:
                    size += len(await self._receive())
        except (TimeoutError, ClientDisconnect):
            return

    async def _receive(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._complete = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    def _too_large(self, what: str) -> Problem:
        return Problem(TOO_LARGE, f"the body {what}; at most {self._max_bytes} are allowed")
