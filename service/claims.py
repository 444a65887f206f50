"""The keys of requests: those under way, one request at a time, and those that were recorded lately."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Claims:
    """Locks by key: the retry that overtakes its first attempt waits for it.

    A key that nobody holds or waits for takes no memory.
    """

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def hold(self, key: str | None) -> AsyncIterator[None]:
        """Hold the key for the block, after whoever holds it; `None` is nobody's."""
        if key is None:
            yield
            return
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if self._users[key] == 0:
                del self._users[key], self._locks[key]

    def __len__(self) -> int:
        """Keys that are held or waited for."""
        return len(self._locks)


class RecentKeys:
    """The keys that were added last.

    Args:
        most: How many; the oldest go first.
    """

    def __init__(self, most: int = 65_536) -> None:
        self._most = most
        self._keys: dict[str, None] = {}

    def add(self, key: str) -> None:
        """Add a key, as the newest."""
        self._keys.pop(key, None)
        self._keys[key] = None
        if len(self._keys) > self._most:
            del self._keys[next(iter(self._keys))]

    def __contains__(self, key: str) -> bool:
        """Whether the key is one of the last."""
        return key in self._keys
