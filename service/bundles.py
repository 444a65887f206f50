"""Bundles in service: verified, tested and warmed up before they are used, closed when they are not any more."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import ValidationError

from model_export.bundle import MANIFEST_NAME, Bundle, BundleError, Manifest, list_bundles, load_bundle
from service.runtimes.protocol import PreparedRuntime, Runtime, RuntimeUnusableError
from service.scheduler import Scheduler
from service.self_test import SelfTestError, run_self_test
from service.setups import LoadedBundle

log = structlog.get_logger(__name__)


class BundleMissingError(Exception):
    """There is no such bundle; the message says which there are."""


class BundleUnusableError(Exception):
    """A bundle is damaged, or does not answer as it was validated; the message says what is wrong."""


class Bundles:
    """Loads bundles, and closes those that nobody uses. Belongs to the event loop.

    Args:
        weights: Directory of the bundles.
        make_runtime: What runs a network; one for each bundle.
        make_interim: What runs it until that is prepared, if anything is to; see `PreparedRuntime`.
        queue_size: Frames that may wait for each of them.
        on_batch: Told the number of frames of every batch that is computed.
    """

    def __init__(
        self,
        weights: Path,
        make_runtime: Callable[[], Runtime],
        make_interim: Callable[[], Runtime | None],
        queue_size: int,
        on_batch: Callable[[int], None],
    ) -> None:
        self._weights = weights
        self._make_runtime = make_runtime
        self._make_interim = make_interim
        self._queue_size = queue_size
        self._on_batch = on_batch
        self._closing: set[asyncio.Task[None]] = set()
        self.loaded: list[LoadedBundle] = []
        """Those that are open, in the order in which they were loaded; more than one may be of the same bundle."""

    async def load(self, name: str) -> LoadedBundle:
        """Verify the sha256 of all files of a bundle, warm a runtime up with it and inspect its golden samples.

        It is closed once it was held and let go of.

        Args:
            name: `name/version`, in the form that names of bundles have: it becomes a path.

        Raises:
            BundleMissingError: There is none of that name.
            BundleUnusableError: It is damaged, cannot be run here, or fails its golden samples.
        """
        bundle = await asyncio.to_thread(self._verify, name)
        runtime = self._make_runtime()
        interim = self._make_interim()
        if interim is not None and await asyncio.to_thread(_is_prepared, runtime, bundle):
            interim = None
        running = interim or runtime
        await asyncio.to_thread(_warm_up, name, bundle, running)
        scheduler = Scheduler(running, self._queue_size, self._on_batch)
        scheduler.start()
        loaded = LoadedBundle(name, bundle, running, scheduler, self._retire, interim=interim is not None)
        self.loaded.append(loaded)
        return loaded

    async def prepare(self, loaded: LoadedBundle) -> None:
        """Make what the runtime needs that is to take over from the interim one; cancelling gives it up.

        Raises:
            BundleUnusableError: It could not be made.
        """
        runtime = self._make_runtime()
        assert isinstance(runtime, PreparedRuntime)
        try:
            await asyncio.to_thread(runtime.prepare, loaded.bundle)
        except RuntimeUnusableError as error:
            raise BundleUnusableError(str(error)) from error
        finally:
            runtime.close()

    def names(self) -> list[str]:
        """All bundles that there are, `name/version`, whatever state they are in; to be called from a thread."""
        return [f"{name}/{version}" for name, version in list_bundles(self._weights)]

    def manifest(self, name: str) -> tuple[Manifest, str]:
        """What a bundle says of itself, and the sha256 of that; nothing is verified. To be called from a thread.

        Raises:
            BundleMissingError: There is none of that name.
            BundleUnusableError: Its manifest cannot be read.
        """
        self._require(name)
        path = self._weights / name / MANIFEST_NAME
        try:
            content = path.read_bytes()
            return Manifest.model_validate_json(content), hashlib.sha256(content).hexdigest()
        except OSError as error:
            raise BundleUnusableError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleUnusableError(f"{path} is not a valid manifest: {where}: {first['msg']}") from error

    def abandon(self) -> None:
        """Give up all frames that have no answer yet, and refuse further ones."""
        for loaded in self.loaded:
            loaded.scheduler.abandon()

    async def close(self) -> None:
        """Close all of them; what was not computed by now is refused."""
        for loaded in list(self.loaded):
            self._retire(loaded)
        while self._closing:
            await asyncio.wait(self._closing)

    def _retire(self, loaded: LoadedBundle) -> None:
        if loaded in self.loaded:
            self.loaded.remove(loaded)
            task = asyncio.create_task(self._close(loaded))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, loaded: LoadedBundle) -> None:
        await loaded.scheduler.close()
        await asyncio.to_thread(loaded.runtime.close)
        log.info("bundle_closed", bundle=loaded.name)

    def _verify(self, name: str) -> Bundle:
        self._require(name)
        try:
            return load_bundle(self._weights / name)
        except BundleError as error:
            raise BundleUnusableError(str(error)) from error

    def _require(self, name: str) -> None:
        # Only what is listed becomes a path, whatever a client wrote.
        names = self.names()
        if name not in names:
            have = f"{self._weights}/ has: {', '.join(names) or 'no bundle'}"
            raise BundleMissingError(f"no bundle at {self._weights / name}; {have}")


def _is_prepared(runtime: Runtime, bundle: Bundle) -> bool:
    try:
        return not isinstance(runtime, PreparedRuntime) or runtime.is_prepared(bundle)
    except RuntimeUnusableError as error:
        raise BundleUnusableError(str(error)) from error


def _warm_up(name: str, bundle: Bundle, runtime: Runtime) -> None:
    try:
        runtime.load(bundle)
        report = run_self_test(bundle, runtime)
    except BaseException as error:
        runtime.close()
        if isinstance(error, (BundleError, RuntimeUnusableError, SelfTestError)):
            raise BundleUnusableError(str(error)) from error
        raise
    log.info(
        "self_test_passed", bundle=name, samples=report.samples, largest_difference=report.largest_score_difference
    )
