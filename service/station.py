"""Everything behind the HTTP routes: put together, started, drained and stopped."""

import asyncio
import math
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import structlog

from model_export.bundle import Bundle
from service import problems
from service.archive import Archive, ArchiveLimits
from service.bundles import BundleMissingError, Bundles, BundleUnusableError
from service.decoding import Decoder, Decoding
from service.editions import Editions
from service.front import Front, StartError
from service.inspector import Inspector
from service.latecomers import Latecomers
from service.management import Management
from service.metrics import Exposition, Limits, Metrics
from service.monitoring.documents import DriftNews, news_of
from service.monitoring.drift import DriftEvent, DriftSettings, DriftWatch
from service.problems import Problem
from service.recipes.store import RecipeStore
from service.records.configuration import note_configuration
from service.records.database import RecordError, database_url
from service.records.store import RecordStore
from service.refusals import RETRY_AFTER_S
from service.runtimes.choice import make_interim_runtime, make_runtime
from service.runtimes.protocol import Runtime
from service.scheduler import Scheduler
from service.scoring import BundleScoring
from service.settings import Settings
from service.setups import Edition

log = structlog.get_logger(__name__)

MakeRuntime = Callable[[Settings], Runtime]


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a station works with once it has started."""

    editions: Editions
    management: Management
    records: RecordStore
    archive: Archive
    inspector: Inspector
    decoding: Decoding

    @property
    def edition(self) -> Edition:
        """What inspects now."""
        return self.inspector.edition

    @property
    def bundle(self) -> Bundle:
        """The default recipe's."""
        return self.edition.default.bundle

    @property
    def bundle_name(self) -> str:
        """See `FrontEquipment`."""
        return self.edition.default.loaded.name

    @property
    def digest(self) -> str:
        """See `FrontEquipment`."""
        return self.bundle.digest

    @property
    def scoring(self) -> BundleScoring:
        """Scores with the default recipe's bundle, and goes on with that one whatever is activated meanwhile."""
        return BundleScoring(self.edition, self.decoding)

    @property
    def scheduler(self) -> Scheduler:
        """The queue of the default recipe's bundle."""
        return self.edition.default.loaded.scheduler


class Station(Front):
    """The active recipes with their bundles, each on a runtime with its queue; the records and the archive.

    Args:
        settings: How to set it up.
        runtime: What runs the network, or what makes one for each bundle; by default what the settings ask for. One
            that was made already serves one bundle only.
        interim: What makes a runtime that fills in until that one is prepared; by default what the settings ask for.
        decoding: Makes frames of images; threads of this process by default.
    """

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime | MakeRuntime | None = None,
        decoding: Decoding | None = None,
        *,
        interim: Callable[[Settings], Runtime | None] = make_interim_runtime,
    ) -> None:
        super().__init__(settings)
        self._metrics = Metrics()
        self._runtime = make_runtime if runtime is None else runtime
        self._decoding = decoding
        self._bundles = Bundles(
            settings.weights, self._make_runtime, lambda: interim(settings), settings.queue_size, self._metrics.batch
        )
        self._equipment: Equipment | None = None
        self._latecomers = Latecomers()
        self._testing: asyncio.Task[None] | None = None
        self._closing = ExitStack()
        self.on_edition: Callable[[], None] = lambda: None
        """Told when something else inspects, or must not inspect any more."""
        self.on_drift: Callable[[DriftNews], None] = self.tell_drift
        """Told when a recipe's parts have drifted, or are back."""

    @property
    def metrics(self) -> Metrics:
        """What it counts."""
        return self._metrics

    async def exposition(self, accept: str) -> Exposition:
        """See `Front.exposition`."""
        self.metrics.disk_free(await asyncio.to_thread(_free_bytes, self.settings.var))
        return self.metrics.exposition(accept)

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
        """Open records and archive, load and verify the bundles of the active recipes, inspect their golden samples.

        Returns:
            A golden sample's image to try, one that fails if there is one.

        Raises:
            StartError: It cannot serve; it stays in state `failed`.
        """
        try:
            # Frames are decoded in threads of our own; OpenCV's would fight them and the sessions for the same cores.
            cv2.setNumThreads(1)
            records, archive, recipes = await asyncio.to_thread(self._open)
            settings, metrics = self.settings, self.metrics
            watch = self._watch()
            editions = Editions(recipes, self._bundles, settings.max_bundles, self._take_over, watch)
            edition = await self._load(editions)
            management = Management(recipes, self._bundles, editions, metrics.self_test_failed)
        except Exception as error:
            failure = error if isinstance(error, StartError) else StartError(f"{type(error).__name__}: {error}")
            self.state, self.failure = "failed", str(failure)
            log.critical("start_failed", reason=str(failure), exc_info=failure is not error)
            await self._bundles.close()
            await asyncio.to_thread(self._closing.close)
            raise failure from error
        decoding = self._decoding
        if decoding is None:
            decoding = Decoder(settings.sessions, settings.max_pixels)
            self._closing.callback(decoding.close)
        inspector = Inspector(edition, decoding, records, archive, metrics, self._latecomers)
        self._equipment = Equipment(editions, management, records, archive, inspector, decoding)
        self._take_over(edition)
        bundles = self._bundles
        metrics.watch(
            Limits(settings.queue_size, settings.archive_max_bytes, settings.runtime),
            self._accepts,
            lambda: sum(loaded.scheduler.depth for loaded in bundles.loaded),
            lambda: archive.bytes,
            lambda: archive.paused,
            lambda: [loaded.description for loaded in bundles.loaded],
            lambda: [] if watch is None else watch.states,
        )
        if settings.self_test_hours:
            self._testing = asyncio.create_task(self._test_regularly(management, settings.self_test_hours * 3600))
        if self.state == "starting":
            self.state = "ready"
        default = edition.default.loaded
        log.info("ready", bundle=default.name, provider=default.description.provider, lanes=default.description.lanes)
        samples = default.bundle.manifest.golden_samples
        return default.bundle.file(next((sample for sample in samples if sample.verdict == "fail"), samples[0]).image)

    def check_ready(self) -> None:
        """See `Front.check_ready`; a runtime that hangs is not ready either."""
        super().check_ready()
        hung_s = self.hung_s
        if hung_s:
            detail = f"the runtime has not answered for {hung_s:.0f} s"
            raise Problem(problems.NOT_READY, detail, retry_after_s=RETRY_AFTER_S)

    @property
    def hung_s(self) -> float:
        """How long a runtime has not answered, once that is longer than any batch may take; else 0."""
        waited_s = max((loaded.scheduler.longest_call_s for loaded in self._bundles.loaded), default=0.0)
        return waited_s if waited_s > self.settings.hang_seconds else 0.0

    @property
    def lingering(self) -> int:
        """See `Front.lingering`."""
        return len(self._latecomers)

    async def idle(self) -> None:
        """Wait until nothing is under way, and everything is recorded."""
        await super().idle()
        await self._latecomers.gone()

    def abandon(self) -> None:
        """Refuse what is under way and has no verdict yet: its time is up."""
        self._bundles.abandon()

    async def stop(self) -> None:
        """Stop everything; what was not computed by now is refused, what was recorded is flushed."""
        if self._testing is not None:
            self._testing.cancel()
        if self._equipment is not None:
            await self._equipment.editions.close()
        await self._bundles.close()
        await asyncio.to_thread(self._closing.close)
        log.info("stopped")

    def _make_runtime(self) -> Runtime:
        if callable(self._runtime):
            return self._runtime(self.settings)
        if self._bundles.loaded:
            raise RuntimeError("this station was given one runtime, which serves one bundle")
        return self._runtime

    def _take_over(self, edition: Edition) -> None:
        """Inspect by another edition from now on; requests under way keep theirs."""
        self.equipment.inspector.edition = edition
        loaded = [setup.loaded for _, setup in edition]
        self.metrics.in_service(setup.recipe for _, setup in edition)
        self._max_in_flight = self.settings.queue_size + max(one.capacity for one in loaded)
        self.unfit = next((one.unfit for one in loaded if one.unfit is not None), None)
        self.on_edition()

    def _accepts(self) -> bool:
        try:
            self.check_ready()
        except Problem:
            return False
        return self.unfit is None

    async def _test_regularly(self, management: Management, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            with suppress(Problem):  # there was no place for the samples, and the log says so
                await management.self_test()

    def _watch(self) -> DriftWatch | None:
        inspections = self.settings.drift_inspections
        if not inspections:
            return None
        return DriftWatch(self._drifted, DriftSettings(inspections_per_false_alarm=inspections))

    def _drifted(self, event: DriftEvent) -> None:
        told = {"recipe": event.recipe, "revision": event.revision, "quantity": event.quantity}
        log.warning(event.kind, message=event.message, **told)
        self.on_drift(news_of(event))

    async def _load(self, editions: Editions) -> Edition:
        try:
            return await editions.start(self.settings.bundle)
        except (BundleMissingError, BundleUnusableError, RecordError) as error:
            raise StartError(str(error)) from error

    def _open(self) -> tuple[RecordStore, Archive, RecipeStore]:
        settings = self.settings
        try:
            records = RecordStore(database_url(settings.database_url, settings.var), settings.records_keep_days)
            records.on_written = self.bell.ring
            self._closing.callback(records.close)
            note_configuration(records.engine, settings)
            recipes = RecipeStore(records.engine)
            archive = Archive(
                settings.var / "archive",
                ArchiveLimits(
                    max_bytes=settings.archive_max_bytes,
                    queue_bytes=settings.archive_queue_bytes,
                    pass_share=settings.archive_pass_share,
                    keep_days=settings.archive_keep_days,
                    min_free_bytes=settings.archive_min_free_bytes,
                ),
                self.metrics.archive_dropped,
            )
            self._closing.callback(archive.close)
        except RecordError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(f"{settings.var} cannot be used for records and archive: {error}") from error
        return records, archive, recipes


def _free_bytes(directory: Path) -> float:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return math.nan
