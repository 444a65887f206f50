"""Everything behind the HTTP routes: put together, started, drained and stopped."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import cv2
import structlog

from model_export.bundle import Bundle, BundleError, list_bundles, load_bundle
from service import problems
from service.archive import Archive
from service.inspector import RETRY_AFTER_S, Inspector
from service.metrics import Metrics
from service.problems import Problem
from service.recipes import RecipeBook, default_recipe
from service.records.store import RecordStore
from service.records.writer import RecordError
from service.runtimes.onnx import OnnxCpuRuntime
from service.runtimes.protocol import Runtime, RuntimeUnusableError
from service.scheduler import Scheduler
from service.self_test import SelfTestError, run_self_test
from service.settings import Settings

log = structlog.get_logger(__name__)

State = Literal["starting", "ready", "draining", "failed"]

_STARTING_RETRY_AFTER_S: Final = 5


class StartError(Exception):
    """The service cannot serve as it is set up; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a station works with once it has started."""

    bundle: Bundle
    recipes: RecipeBook
    scheduler: Scheduler
    records: RecordStore
    archive: Archive
    inspector: Inspector


class Station:
    """One bundle on one runtime, with its queue, its records and its archive. Belongs to one event loop.

    Args:
        settings: How to set it up.
        runtime: What runs the network; ONNX Runtime on the CPU by default.
    """

    def __init__(self, settings: Settings, runtime: Runtime | None = None) -> None:
        self.metrics = Metrics()
        self.settings = settings
        self.state: State = "starting"
        self.failure: str | None = None
        """Why it did not start, in state `failed`."""
        self._runtime = runtime or OnnxCpuRuntime(settings.sessions)
        self._equipment: Equipment | None = None
        self._closing = ExitStack()
        self._max_in_flight = 0
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def equipment(self) -> Equipment:
        """What it works with.

        Raises:
            Problem: Code 40: it has not started yet.
        """
        if self._equipment is None:
            raise self._not_ready()
        return self._equipment

    async def start(self) -> None:
        """Load and verify the bundle, warm the runtime up, inspect the golden samples, open records and archive.

        Raises:
            StartError: It cannot serve; it stays in state `failed`.
        """
        try:
            # Frames are decoded in threads of our own; OpenCV's would fight them and the sessions for the same cores.
            cv2.setNumThreads(1)
            bundle, records, archive = await asyncio.to_thread(self._open)
        except Exception as error:
            failure = error if isinstance(error, StartError) else StartError(f"{type(error).__name__}: {error}")
            self.state, self.failure = "failed", str(failure)
            log.critical("start_failed", reason=str(failure), exc_info=failure is not error)
            await asyncio.to_thread(self._closing.close)
            raise failure from error
        description = self._runtime.describe()
        scheduler = Scheduler(self._runtime, self.settings.queue_size, self.metrics.batch)
        scheduler.start()
        recipes = RecipeBook(default_recipe(bundle.manifest))
        inspector = Inspector(
            bundle,
            recipes,
            scheduler,
            records,
            archive,
            self.metrics,
            decode_threads=self.settings.sessions,
            max_pixels=self.settings.max_pixels,
        )
        self._closing.callback(inspector.close)
        self._equipment = Equipment(bundle, recipes, scheduler, records, archive, inspector)
        self._max_in_flight = self.settings.queue_size + description.lanes * description.max_batch
        self.metrics.runtime(description)
        self.metrics.watch(lambda: scheduler.depth, lambda: archive.bytes)
        if self.state == "starting":
            self.state = "ready"
        log.info("ready", bundle=self.settings.bundle, provider=description.provider, lanes=description.lanes)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count an inspection in for the block; what is counted in is finished before the station stops.

        Raises:
            Problem: Code 40: not ready, draining, or as many under way as may.
        """
        if self.state != "ready":
            raise self._not_ready()
        if self._in_flight >= self._max_in_flight:
            raise Problem(
                problems.OVERLOADED,
                f"{self._in_flight} inspections are under way, which is the limit; try again",
                retry_after_s=RETRY_AFTER_S,
            )
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    def check_ready(self) -> None:
        """Raise the `Problem` (code 40) that refuses inspections now, if one does."""
        if self.state != "ready":
            raise self._not_ready()

    def begin_drain(self) -> None:
        """Refuse new inspections from now on."""
        if self.state in ("starting", "ready"):
            self.state = "draining"
            log.info("draining", in_flight=self._in_flight)

    @property
    def in_flight(self) -> int:
        """Inspections that were counted in and are not answered yet."""
        return self._in_flight

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    def abandon(self) -> None:
        """Refuse what is under way and has no verdict yet: its time is up."""
        if self._equipment is not None:
            self._equipment.scheduler.abandon()

    async def stop(self) -> None:
        """Stop everything; what was not computed by now is refused, what was recorded is flushed."""
        if self._equipment is not None:
            await self._equipment.scheduler.close()
        await asyncio.to_thread(self._closing.close)
        log.info("stopped")

    def _open(self) -> tuple[Bundle, RecordStore, Archive]:
        settings = self.settings
        try:
            bundle = load_bundle(settings.weights / settings.bundle)
            self._closing.callback(self._runtime.close)
            self._runtime.load(bundle)
            report = run_self_test(bundle, self._runtime)
            log.info("self_test_passed", samples=report.samples, largest_difference=report.largest_score_difference)
            records = RecordStore(settings.var / "records.sqlite3")
            self._closing.callback(records.close)
            archive = Archive(
                settings.var / "archive",
                settings.archive_max_bytes,
                settings.archive_queue_bytes,
                self.metrics.archive_dropped,
            )
            self._closing.callback(archive.close)
        except BundleError as error:
            raise StartError(f"{error}; {_what_there_is(settings.weights)}") from error
        except (RuntimeUnusableError, SelfTestError, RecordError) as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(f"{settings.var} cannot be used for records and archive: {error}") from error
        return bundle, records, archive

    def _not_ready(self) -> Problem:
        match self.state:
            case "starting":
                detail, seconds = "the service is starting", _STARTING_RETRY_AFTER_S
            case "failed":
                detail, seconds = f"the service did not start: {self.failure}", _STARTING_RETRY_AFTER_S
            case _:
                detail, seconds = "the service is shutting down", RETRY_AFTER_S
        return Problem(problems.NOT_READY, detail, retry_after_s=seconds)


def _what_there_is(weights: Path) -> str:
    names = [f"{name}/{version}" for name, version in list_bundles(weights)]
    return f"{weights}/ has: {', '.join(names) or 'no bundle'}"
