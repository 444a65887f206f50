"""What the routes deal with: readiness, admission and draining, whichever process the rest runs in."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Literal, Protocol

import structlog

from atsnet.imaging import Float32Array
from service import problems
from service.events import Bell, Feed
from service.inspector import Inspect
from service.metrics import Exposition
from service.monitoring.documents import DriftDocument, DriftNews
from service.picture import ImageFile
from service.problems import Problem
from service.recipes.documents import (
    ModelDocument,
    ModelList,
    PreviewDocument,
    PreviewRequest,
    RecipeDocument,
    RecipeDraft,
    RecipeHistory,
    RecipeList,
    SelfTests,
)
from service.records.audit import Actor
from service.records.store import RecordReader
from service.refusals import RETRY_AFTER_S
from service.reply import Reply
from service.scoring import Scoring
from service.settings import Settings
from service.submission import Submission

log = structlog.get_logger(__name__)

State = Literal["starting", "ready", "restarting", "draining", "failed"]

_STARTING_RETRY_AFTER_S: Final = 5


class StartError(Exception):
    """The service cannot serve as it is set up; the message says what is wrong."""


class Inspects(Protocol):
    """Takes submissions to verdicts; see `inspector.Inspector`."""

    async def inspect(self, submission: Submission, client: AbstractAsyncContextManager[None]) -> Reply:
        """Inspect one image, or replay the verdict that the same request got before."""

    def at_one_time(self) -> AbstractContextManager[Inspect]:
        """Inspect whatever is inspected in the block by the same edition, whatever is activated meanwhile."""


class Keeps(Protocol):
    """Reads kept images and maps; see `archive.Archive`. To be called from threads."""

    def has(self, inspection_id: str) -> bool:
        """Whether the image of that inspection is kept."""

    def image(self, inspection_id: str) -> ImageFile | None:
        """The kept image."""

    def anomaly_map(self, inspection_id: str) -> Float32Array | None:
        """The kept map, calibrated, `float32 [h, w]`."""


class Counts(Protocol):
    """Counts what became of requests; see `metrics.Metrics`."""

    def request(self, station: str | None, outcome: str) -> None:
        """Count a request."""

    def deadline_missed(self) -> None:
        """Count a request whose deadline passed."""


class Manages(Protocol):
    """Changes recipes and bundles; see `management.Management`."""

    async def recipes(self) -> RecipeList:
        """All recipes with all of their versions."""

    async def recipe(self, name: str) -> RecipeHistory:
        """All versions of a recipe."""

    async def create(self, draft: RecipeDraft, by: Actor) -> RecipeDocument:
        """Add a version of a recipe."""

    async def activate_recipe(self, name: str, version: int, by: Actor, *, default: bool = False) -> RecipeDocument:
        """Make a version of a recipe inspect from now on."""

    async def preview(self, name: str, wanted: PreviewRequest) -> PreviewDocument:
        """What other thresholds would have done to the recorded inspections of a recipe."""

    async def drift(self, name: str) -> DriftDocument:
        """How the parts of a recipe compare with those that it was calibrated on."""

    async def reset_drift(self, name: str, by: Actor) -> DriftDocument:
        """Watch for drift of a recipe anew."""

    async def models(self) -> ModelList:
        """All bundles."""

    async def activate_model(self, name: str, version: str, by: Actor) -> ModelDocument:
        """Make a bundle inspect its product."""

    async def self_test(self) -> SelfTests:
        """Inspect the golden samples of every bundle in service."""


class FrontEquipment(Protocol):
    """What the routes work with once the station has started."""

    @property
    def inspector(self) -> Inspects:
        """Makes verdicts."""

    @property
    def records(self) -> RecordReader:
        """Reads inspections back."""

    @property
    def archive(self) -> Keeps:
        """Reads images and maps back."""

    @property
    def scoring(self) -> Scoring:
        """Scores frames that are no inspections."""

    @property
    def management(self) -> Manages:
        """Changes recipes and bundles."""

    @property
    def bundle_name(self) -> str:
        """`name/version` of the default recipe's bundle."""

    @property
    def digest(self) -> str:
        """sha256 of the manifest of the default recipe's bundle."""


class Front(ABC):
    """The station as the routes see it. Belongs to one event loop.

    Args:
        settings: How it is set up.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state: State = "starting"
        self.failure: str | None = None
        """Why it did not start, or why it is being started again."""
        self.restarting: list[str] = []
        """Processes of the service that ended and are being started again."""
        self.unfit: str | None = None
        """Why a bundle that an active recipe names must not inspect; other recipes go on."""
        self.bell = Bell()
        """Rings when an inspection was recorded."""
        self.feed = Feed(lambda: self.equipment.records, self.bell, self.idle, max_clients=settings.max_event_clients)
        """What listens to it for the clients of this process."""
        self._max_in_flight = 0
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    @abstractmethod
    def equipment(self) -> FrontEquipment:
        """What it works with.

        Raises:
            Problem: Code 40: it has not started yet.
        """

    @property
    @abstractmethod
    def metrics(self) -> Counts:
        """Where requests are counted."""

    @abstractmethod
    async def exposition(self, accept: str) -> Exposition:
        """All metrics, in the format that an `Accept` header prefers; see `metrics.expose`."""

    @abstractmethod
    async def start(self) -> Path | None:
        """Start; where a golden sample's image is to try, if that is known here.

        Raises:
            StartError: It cannot serve.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Refuse what is under way and has no verdict yet: its time is up."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop everything; what was not computed by now is refused, what was recorded is flushed."""

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count an inspection in for the block; what is counted in is finished before the station stops.

        Raises:
            Problem: Code 40: not ready, draining, or as many under way as may.
        """
        self.check_ready()
        with self.admitted_further(1):
            yield

    @contextmanager
    def admitted_further(self, count: int) -> Iterator[None]:
        """Count further inspections of an admitted request in for the block, all or none; also while draining.

        Raises:
            Problem: Code 40: more than may be under way.
        """
        under_way = self._in_flight + self.lingering
        if under_way + count > self._max_in_flight:
            full = under_way >= self._max_in_flight
            why = "which is the limit" if full else f"and {count} more would be over the limit"
            detail = f"{under_way} inspections are under way, {why}; try again"
            raise Problem(problems.OVERLOADED, detail, retry_after_s=RETRY_AFTER_S)
        self._in_flight += count
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= count
            if self._in_flight == 0:
                self._idle.set()

    def check_ready(self) -> None:
        """Raise the `Problem` (code 40) that refuses inspections now, if one does."""
        if self.state != "ready":
            raise self._not_ready()

    def begin_drain(self) -> None:
        """Refuse new inspections from now on."""
        self.feed.leave()
        if self.state not in ("draining", "failed"):
            self.state = "draining"
            log.info("draining", in_flight=self._in_flight)

    @property
    def max_in_flight(self) -> int:
        """Inspections that may be under way at once."""
        return self._max_in_flight

    @property
    def in_flight(self) -> int:
        """Inspections that were counted in and are not answered yet."""
        return self._in_flight

    @property
    def lingering(self) -> int:
        """Inspections that were answered that it is too late, and are still being recorded."""
        return 0

    def tell_drift(self, news: DriftNews) -> None:
        """Tell the clients of this process that a recipe's parts have drifted, or are back."""
        self.feed.tell("drift", news.model_dump_json().encode())

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    def _not_ready(self) -> Problem:
        match self.state:
            case "starting":
                detail, seconds = "the service is starting", _STARTING_RETRY_AFTER_S
            case "restarting":
                why = f": {self.failure}" if self.failure else ""
                detail, seconds = f"the engine is being restarted{why}", RETRY_AFTER_S
            case "failed":
                detail, seconds = f"the service did not start: {self.failure}", _STARTING_RETRY_AFTER_S
            case _:
                detail, seconds = "the service is shutting down", RETRY_AFTER_S
        return Problem(problems.NOT_READY, detail, retry_after_s=seconds)
