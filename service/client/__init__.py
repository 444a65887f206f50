"""A typed client of the inspection service, synchronous and for asyncio.

It needs httpx, pydantic and python-ulid, and nothing of the service that runs a network or keeps records.
"""

from service.client.answers import Liveness, Readiness, Record, Verdict
from service.client.asynchronous import AsyncInspectionClient
from service.client.connection import Tls
from service.client.errors import (
    BusyError,
    DeadlinePassedError,
    FailedError,
    FieldError,
    ImageRefusedError,
    KeyReusedError,
    NoAnswerError,
    NotAllowedError,
    NotEvaluated,
    ProblemError,
    ServiceError,
    UnknownError,
)
from service.client.requests import Pixels
from service.client.retries import Retries
from service.client.synchronous import InspectionClient

__all__ = [
    "AsyncInspectionClient",
    "BusyError",
    "DeadlinePassedError",
    "FailedError",
    "FieldError",
    "ImageRefusedError",
    "InspectionClient",
    "KeyReusedError",
    "Liveness",
    "NoAnswerError",
    "NotAllowedError",
    "NotEvaluated",
    "Pixels",
    "ProblemError",
    "Readiness",
    "Record",
    "Retries",
    "ServiceError",
    "Tls",
    "UnknownError",
    "Verdict",
]
