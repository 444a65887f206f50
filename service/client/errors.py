"""Every way in which a call can end without an answer that may be trusted. None of them ever means a good part."""

from typing import Final, Literal


class ServiceError(Exception):
    """There is no verdict; whatever the reason, the part must not pass.

    Args:
        detail: What went wrong, for a person.
        result: 0 not evaluated, 3 error; as a verdict would say it.
        code: Reason from the contract's table; `None` where the service gave none.
        status: HTTP status; `None` where no answer came.
        title: What the code means.
        trigger: The request's trigger, where the service echoed it.
        field: Code 13: the field that is wrong.
        id: The inspection, where one was recorded.
        again: Whether the same request may fare better a moment later.
        retry_after_s: When, where the service said so.
    """

    def __init__(
        self,
        detail: str,
        *,
        result: Literal[0, 3] = 0,
        code: int | None = None,
        status: int | None = None,
        title: str | None = None,
        trigger: int | None = None,
        field: str | None = None,
        id: str | None = None,  # noqa: A002
        again: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.result: Literal[0, 3] = result
        self.code = code
        self.status = status
        self.title = title
        self.trigger = trigger
        self.field = field
        self.id = id
        self.again = again
        self.retry_after_s = retry_after_s
        self.attempts = 1
        """How often the service was asked."""

    def __str__(self) -> str:
        told = self.detail if self.title is None else f"{self.title} (code {self.code}): {self.detail}"
        return told if self.attempts == 1 else f"{told} (asked {self.attempts} times)"


class NotEvaluated(ServiceError):  # noqa: N818
    """What came back is no clear answer to this request: garbage, contradictory, or about another part."""


class NoAnswerError(NotEvaluated):
    """Nothing came back: nobody listens, the connection broke, or an attempt took too long."""


class ProblemError(ServiceError):
    """The service answered a problem, or, of code 41 without a status, the client knows it by itself."""


class ImageRefusedError(ProblemError):
    """Codes 10, 11, 12: the bytes are no image, too large, or unusable."""


class FieldError(ProblemError):
    """Code 13: the field that `field` names is wrong."""


class UnknownError(ProblemError):
    """Code 20: there is no such recipe, inspection, picture or route."""


class KeyReusedError(ProblemError):
    """Code 21: the key, or the part, was inspected before with another image."""


class NotAllowedError(ProblemError):
    """Code 30: the API key is missing, unknown, or may not do this."""


class BusyError(ProblemError):
    """Code 40: overloaded, or not ready; the retries are used up, or would come too late."""


class DeadlinePassedError(ProblemError):
    """Code 41: the deadline passed before a verdict; `status` is `None` where it passed while waiting for one."""


class FailedError(ProblemError):
    """Code 50: the engine failed; result 3."""


ERRORS: Final[dict[int, type[ProblemError]]] = {
    10: ImageRefusedError,
    11: ImageRefusedError,
    12: ImageRefusedError,
    13: FieldError,
    20: UnknownError,
    21: KeyReusedError,
    30: NotAllowedError,
    40: BusyError,
    41: DeadlinePassedError,
    50: FailedError,
}
"""Which error a code of the contract is; one that is not known yet is a `ProblemError`."""
