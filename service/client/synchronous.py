"""The client for code without an event loop: the asynchronous one, in a thread of its own.

That is how a call can keep its deadline whatever the network does: the name lookup of a blocking socket has no timeout
at all, and its other timeouts begin anew with every byte that trickles in.
"""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from service.client.answers import Liveness, Readiness, Record, Verdict
from service.client.asynchronous import AsyncInspectionClient
from service.client.connection import ClientOptions
from service.client.requests import InspectionOptions, Pixels

T = TypeVar("T")


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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="atsnet-client", daemon=True)
        self._thread.start()

    def inspect(
        self, image: bytes | Pixels, *, deadline_ms: int | None = None, **options: Unpack[InspectionOptions]
    ) -> Verdict:
        """Have an image inspected: the bytes of a JPEG, PNG, BMP or TIFF file, or bare pixels."""
        return self._wait(self._client.inspect(image, deadline_ms=deadline_ms, **options))

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
        """Close the connections; once is enough."""
        if self._loop.is_closed():
            return
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            call.close()
            raise RuntimeError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C too: nobody waits for the answer any more
            future.cancel()
            raise
