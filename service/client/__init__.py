"""A typed client of the inspection service, synchronous and for asyncio.

It needs httpx, pydantic and python-ulid, and nothing of the service that runs a network or keeps records.
"""

from service.client.answers import (
    GrainVerdict,
    InspectionEvent,
    InspectionPage,
    ListedInspection,
    Liveness,
    ProblemDocument,
    Readiness,
    Record,
    Verdict,
)
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
from service.client.management_answers import (
    Change,
    Drift,
    DriftAlarm,
    DriftQuantity,
    Gates,
    HeatmapStyle,
    Limits,
    Model,
    Preview,
    RecipeHistory,
    RecipeList,
    RecipeVersion,
    Roi,
    SelfTest,
    SelfTests,
)
from service.client.requests import Pixels
from service.client.retries import Retries
from service.client.synchronous import InspectionClient

__all__ = [
    "AsyncInspectionClient",
    "BusyError",
    "Change",
    "DeadlinePassedError",
    "Drift",
    "DriftAlarm",
    "DriftQuantity",
    "FailedError",
    "FieldError",
    "Gates",
    "GrainVerdict",
    "HeatmapStyle",
    "ImageRefusedError",
    "InspectionClient",
    "InspectionEvent",
    "InspectionPage",
    "KeyReusedError",
    "Limits",
    "ListedInspection",
    "Liveness",
    "Model",
    "NoAnswerError",
    "NotAllowedError",
    "NotEvaluated",
    "Pixels",
    "Preview",
    "ProblemDocument",
    "ProblemError",
    "Readiness",
    "RecipeHistory",
    "RecipeList",
    "RecipeVersion",
    "Record",
    "Retries",
    "Roi",
    "SelfTest",
    "SelfTests",
    "ServiceError",
    "Tls",
    "UnknownError",
    "Verdict",
]
