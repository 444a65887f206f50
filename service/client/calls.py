"""How a call is made: attempts, each with its time, until there is an answer or there can be none."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import httpx

from service.client.errors import NoAnswerError, NotEvaluated, ServiceError
from service.client.requests import Request
from service.client.responses import Response
from service.client.retries import Attempts, Retries

log = logging.getLogger(__name__)

_LARGEST_BODY: Final = 256 * 2**20
"""Bytes; no answer of the service is as large."""

T = TypeVar("T")


class Calls:
    """Makes the calls of a client.

    Args:
        url: Where the service listens, for messages.
        http: What carries the requests.
        timeout_s: Longest wait of a call that names no other limit, retries included.
        retries: How patient to be within it.
    """

    def __init__(self, url: str, http: httpx.AsyncClient, timeout_s: float, retries: Retries) -> None:
        self.retries = retries
        self.timeout_s = timeout_s
        self._url = url
        self._http = http

    async def read(
        self,
        request: Request,
        read: Callable[[Response], T],
        *,
        retries: Retries | None = None,
        limit_s: float | None = None,
    ) -> T:
        """What `read` makes of the response to a request that is the same at every attempt.

        Raises:
            ServiceError: What `read` raises, or that no answer came.
        """
        return await self.call(lambda _: request, read, retries=retries, limit_s=limit_s)

    async def call(
        self,
        build: Callable[[Attempts], Request],
        read: Callable[[Response], T],
        *,
        limit_s: float | None = None,
        retries: Retries | None = None,
    ) -> T:
        """What `read` makes of the response to what `build` makes for every attempt.

        Raises:
            ServiceError: What `read` raises, or that no answer came.
        """
        attempts = Attempts(retries or self.retries, self.timeout_s if limit_s is None else limit_s)
        while True:
            try:
                answer = read(await self._exchange(build, attempts))
                attempts.left_s()  # what comes too late is no answer
                return answer
            except ServiceError as error:
                await self.pause_after(error, attempts)

    async def pause_after(self, error: ServiceError, attempts: Attempts) -> None:
        """Wait until the next attempt.

        Raises:
            ServiceError: This very error, where there is to be none.
        """
        pause = attempts.pause_after(error)
        log.info("attempt %d at %s: %s; again in %.3f s", attempts.made, self._url, error.detail, pause)
        await asyncio.sleep(pause)

    @asynccontextmanager
    async def streaming(self, request: Request, silence_s: float) -> AsyncIterator[httpx.Response]:
        """The response to one attempt at a request, its body yet to be read, and given up after so long a silence.

        Raises:
            ServiceError: The connection cannot be made, or breaks.
        """
        timeout = httpx.Timeout(silence_s, connect=self.retries.connect_s)
        with self._network_errors():
            response = await self._http.send(
                self._http.build_request(**request.arguments(), timeout=timeout), stream=True
            )
            try:
                yield response
            finally:
                await response.aclose()

    async def _exchange(self, build: Callable[[Attempts], Request], attempts: Attempts) -> Response:
        allowed_s = attempts.begin()
        timeout = httpx.Timeout(None, connect=self.retries.connect_s)  # but for this, `allowed_s` rules
        request = self._http.build_request(**build(attempts).arguments(), timeout=timeout)
        try:
            with self._network_errors():
                async with asyncio.timeout(allowed_s):
                    response = await self._http.send(request, stream=True)
                    try:
                        return await read_whole(response)
                    finally:
                        await response.aclose()
        except TimeoutError:
            raise attempts.timed_out(allowed_s) from None

    @contextmanager
    def _network_errors(self) -> Iterator[None]:
        """Make of what the network does to a call the errors of this client."""
        try:
            yield
        except TimeoutError:  # an OSError too, but the caller's own clock
            raise
        except (httpx.TransportError, OSError) as error:
            detail = f"no answer from {self._url}: {error or type(error).__name__}"
            raise NoAnswerError(detail, again=_may_pass(error)) from error
        except httpx.HTTPError as error:
            raise NotEvaluated(f"{self._url} answered something unreadable: {error}") from error


async def read_whole(response: httpx.Response) -> Response:
    """The response with its body.

    Raises:
        NotEvaluated: The body is larger than any of the service.
    """
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise NotEvaluated(f"the answer has more than {_LARGEST_BODY} bytes", status=response.status_code)
    return Response(response.status_code, dict(response.headers), bytes(body))


def _may_pass(error: BaseException) -> bool:
    """Whether a failure of the network may be gone a moment later; a certificate that is not trusted stays so."""
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return False
        cause = cause.__cause__ or cause.__context__
    return True
