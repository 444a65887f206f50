"""A small synchronous client of the inspection service."""

from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError

from service.fields import HeatmapKind
from service.problems import ProblemDocument
from service.reply import Reply


class ServiceError(Exception):
    """The service could not be reached, or what answered is not this service."""


class InspectionError(ServiceError):
    """The service answered a problem instead of a verdict."""

    def __init__(self, problem: ProblemDocument, retry_after_s: int | None) -> None:
        super().__init__(f"{problem.title} (code {problem.code}): {problem.detail}")
        self.problem = problem
        self.retry_after_s = retry_after_s
        """When to try again, where the service said so."""


class Client:
    """Talks to one service; use it as a context manager, from one thread.

    Args:
        url: Where the service listens, such as `http://127.0.0.1:8000`.
        timeout_s: Longest wait for any one answer.

    Raises:
        ServiceError: The address is none.
    """

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        self._url = url
        # The service is on this line's network: a proxy from the environment would be a detour at best.
        try:
            self._http = httpx.Client(base_url=url, timeout=timeout_s, trust_env=False)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{url} is no address: {error}") from error

    def inspect(
        self,
        image: bytes,
        *,
        recipe: str | None = None,
        station: str | None = None,
        lot: str | None = None,
        serial: str | None = None,
        trigger: int | None = None,
        deadline_ms: int | None = None,
        heatmap: HeatmapKind = "none",
        idempotency_key: str | None = None,
    ) -> Reply:
        """Have an image file's bytes inspected.

        Raises:
            InspectionError: The service refused; its `problem` says why.
            ServiceError: No service answered.
        """
        given = {
            "recipe": recipe,
            "station": station,
            "lot": lot,
            "serial": serial,
            "trigger": trigger,
            "deadline_ms": deadline_ms,
            "heatmap": None if heatmap == "none" else heatmap,
        }
        parameters = {name: value for name, value in given.items() if value is not None}
        headers = {"Content-Type": "application/octet-stream"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        response = self._send("POST", "/v1/inspections", params=parameters, content=image, headers=headers)
        try:
            return Reply.model_validate_json(response.content)
        except ValidationError as error:
            raise ServiceError(f"{self._url} answered something that is no verdict") from error

    def overlay(self, inspection_id: str) -> bytes:
        """The kept image of an inspection with its anomaly map over it, PNG.

        Raises:
            InspectionError: There is no such inspection, or its image is not kept.
            ServiceError: No service answered.
        """
        return self._send("GET", f"/v1/inspections/{inspection_id}/overlay.png").content

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str | int] | None = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            response = self._http.request(method, path, params=params, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise ServiceError(f"no answer from {self._url}: {error}") from error
        if response.is_success:
            return response
        try:
            problem = ProblemDocument.model_validate_json(response.content)
        except ValidationError as error:
            raise ServiceError(f"{self._url} answered status {response.status_code}") from error
        retry_after = response.headers.get("Retry-After", "")
        raise InspectionError(problem, int(retry_after) if retry_after.isdecimal() else None)
