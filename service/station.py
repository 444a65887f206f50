"""Everything behind the HTTP routes: put together, started, drained and stopped."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import structlog

from model_export.bundle import Bundle, BundleError, list_bundles, load_bundle
from service import problems
from service.archive import Archive
from service.decoding import Decoder, Decoding
from service.front import Front, StartError
from service.inspector import RETRY_AFTER_S, Inspector
from service.metrics import Metrics
from service.problems import Problem
from service.recipes import RecipeBook, default_recipe
from service.records.configuration import note_configuration
from service.records.database import database_url
from service.records.store import RecordStore
from service.records.writer import RecordError
from service.runtimes.choice import make_runtime
from service.runtimes.protocol import Runtime, RuntimeUnusableError
from service.scheduler import Scheduler
from service.scoring import BundleScoring
from service.self_test import SelfTestError, run_self_test
from service.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a station works with once it has started."""

    bundle: Bundle
    recipes: RecipeBook
    scheduler: Scheduler
    records: RecordStore
    archive: Archive
    inspector: Inspector
    scoring: BundleScoring

    @property
    def digest(self) -> str:
        """sha256 of the bundle's manifest."""
        return self.bundle.digest


class Station(Front):
    """One bundle on one runtime, with its queue, its records and its archive.

    Args:
        settings: How to set it up.
        runtime: What runs the network; by default what the settings ask for.
        decoding: Makes frames of images; threads of this process by default.
    """

    def __init__(self, settings: Settings, runtime: Runtime | None = None, decoding: Decoding | None = None) -> None:
        super().__init__(settings)
        self._metrics = Metrics()
        self._runtime = runtime or make_runtime(settings)
        self._decoding = decoding
        self._equipment: Equipment | None = None
        self._closing = ExitStack()

    @property
    def metrics(self) -> Metrics:
        """What it counts."""
        return self._metrics

    async def exposition(self) -> bytes:
        """See `Front.exposition`."""
        return self.metrics.exposition()

    @property
    def equipment(self) -> Equipment:
        """What it works with.

        Raises:
            Problem: Code 40: it has not started yet.
        """
        if self._equipment is None:
            raise self._not_ready()
        return self._equipment

    async def start(self) -> Path:
        """Load and verify the bundle, warm the runtime up, inspect the golden samples, open records and archive.

        Returns:
            A golden sample's image to try, one that fails if there is one.

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
        decoding = self._decoding
        if decoding is None:
            decoding = Decoder(bundle.manifest.input, self.settings.sessions, self.settings.max_pixels)
            self._closing.callback(decoding.close)
        inspector = Inspector(bundle, recipes, decoding, scheduler, records, archive, self.metrics)
        scoring = BundleScoring(bundle, recipes, decoding, scheduler)
        self._equipment = Equipment(bundle, recipes, scheduler, records, archive, inspector, scoring)
        self._max_in_flight = self.settings.queue_size + description.lanes * description.max_batch
        self.metrics.runtime(description)
        self.metrics.watch(lambda: scheduler.depth, lambda: archive.bytes)
        if self.state == "starting":
            self.state = "ready"
        log.info("ready", bundle=self.settings.bundle, provider=description.provider, lanes=description.lanes)
        samples = bundle.manifest.golden_samples
        return bundle.file(next((sample for sample in samples if sample.verdict == "fail"), samples[0]).image)

    def check_ready(self) -> None:
        """See `Front.check_ready`; a runtime that hangs is not ready either."""
        super().check_ready()
        hung_s = self.hung_s
        if hung_s:
            detail = f"the runtime has not answered for {hung_s:.0f} s"
            raise Problem(problems.NOT_READY, detail, retry_after_s=RETRY_AFTER_S)

    @property
    def hung_s(self) -> float:
        """How long the runtime has not answered, once that is longer than any batch may take; else 0."""
        if self._equipment is None:
            return 0.0
        waited_s = self._equipment.scheduler.longest_call_s
        return waited_s if waited_s > self.settings.hang_seconds else 0.0

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
            records = RecordStore(database_url(settings.database_url, settings.var), settings.records_keep_days)
            records.on_written = self.bell.ring
            self._closing.callback(records.close)
            note_configuration(records.engine, settings)
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


def _what_there_is(weights: Path) -> str:
    names = [f"{name}/{version}" for name, version in list_bundles(weights)]
    return f"{weights}/ has: {', '.join(names) or 'no bundle'}"
