"""The client for code without an event loop: the asynchronous one, in a thread of its own.

That is how a call can keep its deadline whatever the network does: the name lookup of a blocking socket has no timeout
at all, and its other timeouts begin anew with every byte that trickles in.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar, Unpack

from service.client.answers import (
    GrainVerdict,
    InspectionEvent,
    InspectionPage,
    ListedInspection,
    Liveness,
    Readiness,
    Record,
    Verdict,
)
from service.client.asynchronous import AsyncInspectionClient
from service.client.connection import ClientOptions
from service.client.management import AsyncModels, AsyncRecipes, PreviewOptions, RecipeChanges
from service.client.management_answers import Drift, Model, Preview, RecipeHistory, RecipeList, RecipeVersion, SelfTests
from service.client.records import Filters
from service.client.requests import GrainOptions, InspectionOptions, Pixels
from service.reply import ReviewWord

_CLOSED: Final = "the client is closed"

T = TypeVar("T")


class Wait(Protocol):
    """Waits for a call that runs on the client's event loop."""

    def __call__(self, call: Coroutine[Any, Any, T]) -> T:
        """Its result."""


class InspectionClient:
    """Talks to one service, from any threads; use it as a context manager.

    Every method does, returns and raises what that of `AsyncInspectionClient` does.

    Args:
        url: Where the service listens, such as `http://127.0.0.1:8000`.
        options: Those of `AsyncInspectionClient`.

    Raises:
        ServiceError: The address is none, or a certificate cannot be used.
    """

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        self._client = AsyncInspectionClient(url, **options)
        self._submitting = threading.RLock()  # the garbage collector may end an iteration while it is held
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="atsnet-client", daemon=True)
        self._thread.start()
        self.recipes = Recipes(self._client.recipes, self._wait)
        """How products are inspected."""
        self.models = Models(self._client.models, self._wait)
        """What inspects them."""

    def inspect(
        self, image: bytes | Pixels, *, deadline_ms: int | None = None, **options: Unpack[InspectionOptions]
    ) -> Verdict:
        """Have an image inspected: the bytes of a JPEG, PNG, BMP or TIFF file, or bare pixels."""
        return self._wait(self._client.inspect(image, deadline_ms=deadline_ms, **options))

    def inspect_faces(
        self, images: Sequence[bytes | Pixels], *, deadline_ms: int | None = None, **options: Unpack[GrainOptions]
    ) -> GrainVerdict:
        """Have the faces of one grain inspected together; it passes only where every face passed."""
        return self._wait(self._client.inspect_faces(images, deadline_ms=deadline_ms, **options))

    def inspections(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> Generator[ListedInspection]:
        """The recorded inspections that fit, newest first, a page at a time as they are iterated."""
        return self._iterate(self._client.inspections(limit=limit, **filters))

    def inspection_page(
        self, *, cursor: str | None = None, limit: int | None = None, **filters: Unpack[Filters]
    ) -> InspectionPage:
        """One page of the inspections that fit, newest first; `inspections` turns the pages by itself."""
        return self._wait(self._client.inspection_page(cursor=cursor, limit=limit, **filters))

    def inspections_csv(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> bytes:
        """The inspections that fit as a table for a spreadsheet (CSV, UTF-8), newest first."""
        return self._wait(self._client.inspections_csv(limit=limit, **filters))

    def review(self, inspection_id: str, review: ReviewWord, note: str = "") -> Record:
        """Take down a person's word on an inspection, beside its verdict; the record with it."""
        return self._wait(self._client.review(inspection_id, review, note))

    def events(self, last_event_id: str | None = None) -> Generator[InspectionEvent]:
        """Every inspection as it is recorded, in order, none twice and none left out, until the iteration ends."""
        return self._iterate(self._client.events(last_event_id))

    def record(self, inspection_id: str) -> Record:
        """The record of an inspection."""
        return self._wait(self._client.record(inspection_id))

    def image(self, inspection_id: str) -> bytes:
        """The kept image of an inspection, byte for byte; bare pixels as PNG."""
        return self._wait(self._client.image(inspection_id))

    def heatmap(self, inspection_id: str) -> bytes:
        """The anomaly map of an inspection in colours, PNG."""
        return self._wait(self._client.heatmap(inspection_id))

    def overlay(self, inspection_id: str) -> bytes:
        """The kept image of an inspection with its anomaly map over it, PNG."""
        return self._wait(self._client.overlay(inspection_id))

    def livez(self) -> Liveness:
        """That the process answers; asked once."""
        return self._wait(self._client.livez())

    def readyz(self) -> Readiness:
        """What a service serves that accepts inspections; asked once."""
        return self._wait(self._client.readyz())

    def wait_until_ready(self, timeout_s: float) -> Readiness:
        """Ask until inspections are accepted."""
        return self._wait(self._client.wait_until_ready(timeout_s))

    def close(self) -> None:
        """Give up what other threads still ask for, and close the connections; once is enough."""
        with self._submitting:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._client.close()

    def _iterate(self, items: AsyncGenerator[T]) -> Generator[T]:
        """Take the items one after the other, each when it is asked for."""
        try:
            while True:
                try:
                    item = self._wait(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:  # not waited for: the garbage collector may end an iteration in the very thread of the event loop
            with suppress(RuntimeError):
                self._start(items.aclose())

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        future = self._start(call)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError(_CLOSED) from None
        except BaseException:  # Ctrl-C too: nobody waits for the answer any more
            future.cancel()
            raise

    def _start(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        with self._submitting:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(call, self._loop)
        call.close()
        raise RuntimeError(_CLOSED)


class Recipes:
    """The recipes of a service; every method is that of `AsyncRecipes`."""

    def __init__(self, recipes: AsyncRecipes, wait: Wait) -> None:
        self._recipes = recipes
        self._wait = wait

    def list(self) -> RecipeList:
        """All recipes with all of their versions."""
        return self._wait(self._recipes.list())

    def get(self, name: str) -> RecipeHistory:
        """A recipe with all of its versions."""
        return self._wait(self._recipes.get(name))

    def create(self, name: str, **changes: Unpack[RecipeChanges]) -> RecipeVersion:
        """Add the next version of a recipe, or a new recipe; it is not active yet."""
        return self._wait(self._recipes.create(name, **changes))

    def activate(
        self, name: str, version: int, *, default: bool = False, timeout_s: float | None = None
    ) -> RecipeVersion:
        """Make a version inspect from now on, and with `default` for requests that name no recipe as well."""
        return self._wait(self._recipes.activate(name, version, default=default, timeout_s=timeout_s))

    def preview(self, name: str, **wanted: Unpack[PreviewOptions]) -> Preview:
        """What other thresholds would have done to the recorded inspections; nothing is changed."""
        return self._wait(self._recipes.preview(name, **wanted))

    def drift(self, name: str) -> Drift:
        """How the parts of an active recipe compare with those that it was calibrated on."""
        return self._wait(self._recipes.drift(name))

    def reset_drift(self, name: str) -> Drift:
        """Forget what was seen of a recipe's parts, alarms included, and watch anew."""
        return self._wait(self._recipes.reset_drift(name))


class Models:
    """The bundles of a service; every method is that of `AsyncModels`."""

    def __init__(self, models: AsyncModels, wait: Wait) -> None:
        self._models = models
        self._wait = wait

    def list(self) -> tuple[Model, ...]:
        """All bundles in the directory of weights."""
        return self._wait(self._models.list())

    def activate(self, name: str, version: str, *, timeout_s: float | None = None) -> Model:
        """Make a bundle inspect its product: each active recipe of that product gets a version that names it."""
        return self._wait(self._models.activate(name, version, timeout_s=timeout_s))

    def self_test(self, *, timeout_s: float | None = None) -> SelfTests:
        """Have the golden samples of every bundle in service inspected."""
        return self._wait(self._models.self_test(timeout_s=timeout_s))


async def _next(items: AsyncGenerator[T]) -> T:
    return await anext(items)
