"""The client for asyncio; the synchronous one is this one with an event loop of its own."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack

import httpx

from service.client.answers import Liveness, Readiness, Record, Verdict
from service.client.connection import SYSTEM_TLS, TIMEOUT_S, Tls, open_http
from service.client.errors import NoAnswerError, NotEvaluated, ServiceError
from service.client.requests import InspectionOptions, InspectionRequest, Pixels, Request, read_request
from service.client.responses import Response, read_answer, read_file, read_verdict
from service.client.retries import AT_ONCE_OR_NEVER, PATIENT, Attempts, Retries

log = logging.getLogger(__name__)

_LARGEST_BODY: Final = 256 * 2**20
"""Bytes; no answer of the service is as large."""

T = TypeVar("T")


class AsyncInspectionClient:
    """Talks to one service from one event loop; use it as a context manager.

    A call ends with an answer of the service that is beyond doubt, or with a `ServiceError`, and it ends by its
    deadline. Connections that fail, attempts that take too long, and a service that is busy (429, 503) are tried
    again meanwhile.

    Args:
        url: Where the service listens, such as `http://127.0.0.1:8000`.
        timeout_s: Longest wait of a call that names no deadline, retries included.
        retries: How patient to be within it.
        api_key: Sent as `Authorization: Bearer`.
        tls: Certificates, for `https`.
        transport: What carries the requests in place of the network; for tests.

    Raises:
        ServiceError: The address is none, or a certificate cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: Retries = PATIENT,
        api_key: str | None = None,
        tls: Tls = SYSTEM_TLS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._retries = retries
        self._http = open_http(url, api_key, tls, transport)

    async def inspect(
        self, image: bytes | Pixels, *, deadline_ms: int | None = None, **options: Unpack[InspectionOptions]
    ) -> Verdict:
        """Have an image inspected: the bytes of a JPEG, PNG, BMP or TIFF file, or bare pixels.

        Args:
            image: What to inspect.
            deadline_ms: From the call, retries included. The service is told what is left of it with every attempt.
            options: See `InspectionOptions`.

        Raises:
            ProblemError: The service refused or failed; the kind says why.
            DeadlinePassedError: There was no verdict before the deadline.
            NotEvaluated: No clear answer came.
        """
        request = InspectionRequest(image, **options)
        return await self._call(
            lambda attempts: request.build(None if deadline_ms is None else attempts.left_ms()),
            lambda response: read_verdict(response, request),
            limit_s=self._timeout_s if deadline_ms is None else deadline_ms / 1000,
        )

    async def record(self, inspection_id: str) -> Record:
        """The record of an inspection.

        Raises:
            UnknownError: There is none.
            ServiceError: No clear answer came.
        """
        return await self._read(read_request(inspection_id), lambda response: read_answer(response, Record))

    async def image(self, inspection_id: str) -> bytes:
        """The kept image of an inspection, byte for byte; bare pixels as PNG.

        Raises:
            UnknownError: There is no such inspection, or its image is not kept.
            ServiceError: No clear answer came.
        """
        return await self._read(read_request(inspection_id, "/image"), read_file)

    async def heatmap(self, inspection_id: str) -> bytes:
        """The anomaly map of an inspection in colours, PNG; raises as `image` does."""
        return await self._read(read_request(inspection_id, "/heatmap.png"), read_file)

    async def overlay(self, inspection_id: str) -> bytes:
        """The kept image of an inspection with its anomaly map over it, PNG; raises as `image` does."""
        return await self._read(read_request(inspection_id, "/overlay.png"), read_file)

    async def livez(self) -> Liveness:
        """That the process answers; asked once.

        Raises:
            ServiceError: It does not.
        """
        return await self._read(
            Request("GET", "/livez"), lambda response: read_answer(response, Liveness), retries=AT_ONCE_OR_NEVER
        )

    async def readyz(self) -> Readiness:
        """What a service serves that accepts inspections; asked once.

        Raises:
            BusyError: It does not accept them; `detail` says why.
            ServiceError: No clear answer came.
        """
        return await self._read(
            Request("GET", "/readyz"), lambda response: read_answer(response, Readiness), retries=AT_ONCE_OR_NEVER
        )

    async def wait_until_ready(self, timeout_s: float) -> Readiness:
        """Ask until inspections are accepted.

        Raises:
            ServiceError: What kept them from it when the time was up.
        """
        return await self._read(
            Request("GET", "/readyz"),
            lambda response: read_answer(response, Readiness),
            retries=replace(self._retries, most=None),
            limit_s=timeout_s,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _read(
        self,
        request: Request,
        read: Callable[[Response], T],
        *,
        retries: Retries | None = None,
        limit_s: float | None = None,
    ) -> T:
        limit_s = self._timeout_s if limit_s is None else limit_s
        return await self._call(lambda _: request, read, retries=retries, limit_s=limit_s)

    async def _call(
        self,
        build: Callable[[Attempts], Request],
        read: Callable[[Response], T],
        *,
        limit_s: float,
        retries: Retries | None = None,
    ) -> T:
        attempts = Attempts(retries or self._retries, limit_s)
        while True:
            try:
                answer = read(await self._exchange(build, attempts))
                attempts.left_s()  # what comes too late is no answer
                return answer
            except ServiceError as error:
                pause = attempts.pause_after(error)
                log.info("attempt %d at %s: %s; again in %.3f s", attempts.made, self._url, error.detail, pause)
            await asyncio.sleep(pause)

    async def _exchange(self, build: Callable[[Attempts], Request], attempts: Attempts) -> Response:
        allowed_s = attempts.begin()
        timeout = httpx.Timeout(None, connect=self._retries.connect_s)  # but for this, `allowed_s` rules
        request = self._http.build_request(**build(attempts).arguments(), timeout=timeout)
        try:
            async with asyncio.timeout(allowed_s):
                response = await self._http.send(request, stream=True)
                try:
                    body = await _read_body(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise attempts.timed_out(allowed_s) from None
        except (httpx.TransportError, OSError) as error:
            detail = f"no answer from {self._url}: {error or type(error).__name__}"
            raise NoAnswerError(detail, again=_may_pass(error)) from error
        except httpx.HTTPError as error:
            raise NotEvaluated(f"{self._url} answered something unreadable: {error}") from error
        return Response(response.status_code, dict(response.headers), body)


async def _read_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise NotEvaluated(f"the answer has more than {_LARGEST_BODY} bytes", status=response.status_code)
    return bytes(body)


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
