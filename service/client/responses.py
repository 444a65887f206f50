"""From an HTTP response to an answer or a typed error; whatever is not clearly an answer is an error."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from service.client.answers import GrainVerdict, ProblemDocument, Verdict
from service.client.errors import ERRORS, NotEvaluated, ProblemError, ServiceError
from service.client.requests import FacesRequest, InspectionRequest

_TRY_AGAIN: Final = frozenset({429, 503})

Answer = TypeVar("Answer", bound=BaseModel)


class Response:
    """Status, headers (by lower-case names) and body of a response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.body = body
        self._headers = headers

    @property
    def is_success(self) -> bool:
        """Whether the status says that all went well."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """Of the body, without parameters."""
        return self._headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def retry_after_s(self) -> float | None:
        """Seconds of `Retry-After`, which may also be a date."""
        text = self._headers.get("retry-after", "").strip()
        if text.isdecimal():
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except ValueError:
            return None


def read_answer(response: Response, kind: type[Answer], success: int = 200) -> Answer:
    """The JSON document of a response of that status, checked.

    Raises:
        ProblemError: It is a problem.
        NotEvaluated: It is neither, or not clearly.
    """
    check_status(response, success)
    if response.media_type != "application/json":
        raise _unclear(response, f"its body is {response.media_type or 'of no type'}, not JSON")
    try:
        return kind.model_validate_json(response.body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _unclear(response, f"{where}: {first['msg']}" if where else str(first["msg"])) from error


def read_verdict(response: Response, request: InspectionRequest) -> Verdict:
    """The verdict of a response, where it is about what the request asked for.

    Raises:
        ProblemError: The service answered a problem.
        NotEvaluated: There is no verdict, or it is about something else.
    """
    verdict = read_answer(response, Verdict)
    _check_echo(response, verdict, request.echoed)
    return verdict


def read_faces(response: Response, request: FacesRequest) -> GrainVerdict:
    """The verdict of a response on all faces of a grain, where it is about what the request asked for.

    Raises:
        ProblemError: The service answered a problem.
        NotEvaluated: There is no verdict, or it is about something else, or not about every face.
    """
    grain = read_answer(response, GrainVerdict)
    if len(grain.faces) != request.count:
        raise _unclear(response, f"it is about {len(grain.faces)} faces, and the request about {request.count}")
    if grain.trigger != request.echoed["trigger"]:
        raise _unclear(response, f"it is about trigger {grain.trigger!r}, and the request about another")
    for face in grain.faces:
        if isinstance(face, Verdict):
            _check_echo(response, face, request.echoed)
    return grain


def read_csv(response: Response) -> bytes:
    """The table of a response.

    Raises:
        ProblemError: The service answered a problem.
        NotEvaluated: It is no table.
    """
    check_status(response)
    if response.media_type != "text/csv":
        raise _unclear(response, f"its body is {response.media_type or 'of no type'}, not CSV")
    return response.body


def read_file(response: Response) -> bytes:
    """The image file of a response.

    Raises:
        ProblemError: The service answered a problem.
        NotEvaluated: It is no image.
    """
    check_status(response)
    if not response.media_type.startswith("image/") or not response.body:
        raise _unclear(response, f"its body is {response.media_type or 'of no type'}, not an image")
    return response.body


def check_status(response: Response, success: int = 200) -> None:
    """Let only a response of that status pass.

    Raises:
        ProblemError: It is a problem.
        NotEvaluated: It is neither.
    """
    if response.status == success:
        return
    if response.is_success:
        raise _unclear(response, f"status {response.status} where {success} was to be expected")
    again = response.status in _TRY_AGAIN
    try:
        problem = ProblemDocument.model_validate_json(response.body, strict=True)
        if problem.status != response.status:
            raise _unclear(response, f"a problem of status {problem.status}", again=again)
    except ValidationError as error:
        raise _unclear(response, "and no problem document", again=again) from error
    raise _error_of(problem, again=again, retry_after_s=response.retry_after_s)


def _check_echo(response: Response, verdict: Verdict, echoed: Mapping[str, str | int | None]) -> None:
    for name, asked in echoed.items():
        answered = getattr(verdict, name)
        if answered != asked and (name != "recipe" or asked is not None):
            raise _unclear(response, f"it is about {name} {answered!r}, and the request about {asked!r}")


def _error_of(problem: ProblemDocument, *, again: bool, retry_after_s: float | None) -> ServiceError:
    return ERRORS.get(problem.code, ProblemError)(
        problem.detail,
        result=problem.result,
        code=problem.code,
        status=problem.status,
        title=problem.title,
        trigger=problem.trigger,
        field=problem.field,
        id=problem.id,
        again=again,
        retry_after_s=retry_after_s,
    )


def _unclear(response: Response, why: str, *, again: bool = False) -> NotEvaluated:
    detail = f"status {response.status}, {why}" if not response.is_success else f"no clear answer: {why}"
    retry_after_s = response.retry_after_s if again else None
    return NotEvaluated(detail, status=response.status, again=again, retry_after_s=retry_after_s)
