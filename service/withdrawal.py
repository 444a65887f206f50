"""Work that stops when someone else says that nobody waits for it any more."""

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect


class Withdrawal:
    """A context whose block is cancelled by `withdraw`; afterwards, and before, the work is left alone.

    Raises:
        ClientDisconnect: It was withdrawn before the block ended.
    """

    def __init__(self) -> None:
        self._withdrawn = False
        self._task: asyncio.Task[object] | None = None

    def withdraw(self) -> None:
        """Nobody waits any more."""
        self._withdrawn = True
        if self._task is not None:
            self._task.cancel()

    async def __aenter__(self) -> None:
        if self._withdrawn:
            raise ClientDisconnect
        self._task = asyncio.current_task()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._withdrawn and task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect from None
