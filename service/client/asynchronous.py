"""The client for asyncio; the synchronous one is this one with an event loop of its own."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, Unpack

import httpx

from service.client.answers import (
    GrainVerdict,
    InspectionEvent,
    InspectionPage,
    ListedInspection,
    Liveness,
    Readiness,
    Record,
    Verdict,
)
from service.client.calls import Calls
from service.client.connection import SYSTEM_TLS, TIMEOUT_S, Tls, open_http
from service.client.event_stream import follow
from service.client.management import AsyncModels, AsyncRecipes
from service.client.records import PAGE, Filters, list_request, review_request
from service.client.requests import (
    FacesRequest,
    GrainOptions,
    InspectionOptions,
    InspectionRequest,
    Pixels,
    Request,
    read_request,
)
from service.client.responses import read_answer, read_csv, read_faces, read_file, read_verdict
from service.client.retries import AT_ONCE_OR_NEVER, PATIENT, Retries
from service.reply import ReviewWord


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
        self._http = open_http(url, api_key, tls, transport)
        self._calls = Calls(url, self._http, timeout_s, retries)
        self.recipes = AsyncRecipes(self._calls)
        """How products are inspected."""
        self.models = AsyncModels(self._calls)
        """What inspects them."""

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
        return await self._calls.call(
            lambda attempts: request.build(None if deadline_ms is None else attempts.left_ms()),
            lambda response: read_verdict(response, request),
            limit_s=None if deadline_ms is None else deadline_ms / 1000,
        )

    async def inspect_faces(
        self, images: Sequence[bytes | Pixels], *, deadline_ms: int | None = None, **options: Unpack[GrainOptions]
    ) -> GrainVerdict:
        """Have the faces of one grain inspected together; it passes only where every face passed.

        Args:
            images: One of each face: files, or bare pixels of one layout. A retry needs all of them, in this order.
            deadline_ms: From the call, retries included; see `inspect`.
            options: See `GrainOptions`.

        Raises:
            ProblemError: The service refused or failed as a whole; what is wrong with one face stands in its place.
            DeadlinePassedError: There was no verdict before the deadline.
            NotEvaluated: No clear answer came.
            ValueError: No image, or bare pixels of several layouts.
        """
        request = FacesRequest(images, **options)
        return await self._calls.call(
            lambda attempts: request.build(None if deadline_ms is None else attempts.left_ms()),
            lambda response: read_faces(response, request),
            limit_s=None if deadline_ms is None else deadline_ms / 1000,
        )

    async def inspections(
        self, *, limit: int | None = None, **filters: Unpack[Filters]
    ) -> AsyncGenerator[ListedInspection]:
        """The recorded inspections that fit, newest first, a page at a time as they are iterated.

        Args:
            limit: Most inspections of all.
            filters: See `Filters`.

        Raises:
            FieldError: A filter is wrong.
            ServiceError: No clear answer came.
        """
        left, cursor = limit, None
        while left is None or left > 0:
            page = await self.inspection_page(cursor=cursor, limit=PAGE if left is None else min(left, PAGE), **filters)
            for item in page.items:
                yield item
            left, cursor = None if left is None else left - len(page.items), page.next
            if cursor is None:
                return

    async def inspection_page(
        self, *, cursor: str | None = None, limit: int | None = None, **filters: Unpack[Filters]
    ) -> InspectionPage:
        """One page of the inspections that fit, newest first; `inspections` turns the pages by itself.

        Args:
            cursor: `next` of the page before, which must have had the same filters; the first page without.
            limit: Most inspections of the page, 1,000 at most; 100 without.
            filters: See `Filters`.

        Raises:
            FieldError: A filter, the limit or the cursor is wrong.
            ServiceError: No clear answer came.
        """
        request = list_request(filters, limit=limit, cursor=cursor)
        return await self._calls.read(request, lambda response: read_answer(response, InspectionPage))

    async def inspections_csv(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> bytes:
        """The inspections that fit as a table for a spreadsheet (CSV, UTF-8), newest first.

        Raises:
            FieldError: A filter or the limit, 1,000 at most, is wrong.
            ServiceError: No clear answer came, or it has more than 256 MiB.
        """
        return await self._calls.read(list_request(filters, limit=limit, csv=True), read_csv)

    async def review(self, inspection_id: str, review: ReviewWord, note: str = "") -> Record:
        """Take down a person's word on an inspection, beside its verdict; the record with it.

        Raises:
            UnknownError: There is no such inspection.
            FieldError: The note is too long, or no text.
            ServiceError: No clear answer came.
        """
        request = review_request(inspection_id, review, note)
        return await self._calls.read(request, lambda response: read_answer(response, Record))

    def events(self, last_event_id: str | None = None) -> AsyncGenerator[InspectionEvent]:
        """Every inspection as it is recorded, in order, none twice and none left out, until the iteration ends.

        A connection that breaks is made anew, and goes on where it broke off.

        Args:
            last_event_id: `id` of the last event that arrived, to go on after it, also after a restart of the client.
                Without, what is recorded from when the iteration begins.

        Raises:
            FieldError: It is no id.
            ServiceError: The service refuses, or there was no connection for as long as a call may take.
        """
        return follow(self._calls, last_event_id)

    async def record(self, inspection_id: str) -> Record:
        """The record of an inspection.

        Raises:
            UnknownError: There is none.
            ServiceError: No clear answer came.
        """
        return await self._calls.read(read_request(inspection_id), lambda response: read_answer(response, Record))

    async def image(self, inspection_id: str) -> bytes:
        """The kept image of an inspection, byte for byte; bare pixels as PNG.

        Raises:
            UnknownError: There is no such inspection, or its image is not kept.
            ServiceError: No clear answer came.
        """
        return await self._calls.read(read_request(inspection_id, "/image"), read_file)

    async def heatmap(self, inspection_id: str) -> bytes:
        """The anomaly map of an inspection in colours, PNG; raises as `image` does."""
        return await self._calls.read(read_request(inspection_id, "/heatmap.png"), read_file)

    async def overlay(self, inspection_id: str) -> bytes:
        """The kept image of an inspection with its anomaly map over it, PNG; raises as `image` does."""
        return await self._calls.read(read_request(inspection_id, "/overlay.png"), read_file)

    async def livez(self) -> Liveness:
        """That the process answers; asked once.

        Raises:
            ServiceError: It does not.
        """
        return await self._calls.read(
            Request("GET", "/livez"), lambda response: read_answer(response, Liveness), retries=AT_ONCE_OR_NEVER
        )

    async def readyz(self) -> Readiness:
        """What a service serves that accepts inspections; asked once.

        Raises:
            BusyError: It does not accept them; `detail` says why.
            ServiceError: No clear answer came.
        """
        return await self._calls.read(
            Request("GET", "/readyz"), lambda response: read_answer(response, Readiness), retries=AT_ONCE_OR_NEVER
        )

    async def wait_until_ready(self, timeout_s: float) -> Readiness:
        """Ask until inspections are accepted.

        Raises:
            ServiceError: What kept them from it when the time was up.
        """
        return await self._calls.read(
            Request("GET", "/readyz"),
            lambda response: read_answer(response, Readiness),
            retries=replace(self._calls.retries, most=None),
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
