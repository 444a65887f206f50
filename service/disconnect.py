"""Work that stops when the client who asked for it has gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Receive

_UNWATCHED_S: Final = 0.01


@asynccontextmanager
async def cancelled_by_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client closes the connection.

    The request's body must have been received in full.

    Raises:
        ClientDisconnect: The client left before the block ended.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(watch())

    # A task for every request costs more than what is computed in vain for the few that leave at once.
    beginning = asyncio.get_running_loop().call_later(_UNWATCHED_S, begin)
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        beginning.cancel()
        if watcher is not None:
            watcher.cancel()
