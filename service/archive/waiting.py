"""What waits in memory to be written: rejects before passes, and bounded."""

from collections import OrderedDict

from service.archive.keepsake import Keepsake


class Waiting:
    """A queue of keepsakes that takes `max_bytes` of memory at most. Only reading is safe without a lock.

    Args:
        max_bytes: Memory for all that waits.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._passes: OrderedDict[str, Keepsake] = OrderedDict()
        self._others: OrderedDict[str, Keepsake] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._others or self._passes)

    def add(self, keepsake: Keepsake) -> list[Keepsake]:
        """Take one in.

        Returns:
            What there is no memory for: it, or the newest passes when it is none itself.
        """
        excess = self._bytes + keepsake.waiting_bytes - self._max_bytes
        refused: list[Keepsake] = []
        if excess > 0 and not keepsake.is_pass:
            for waiting in reversed(self._passes.values()):
                if excess <= 0:
                    break
                refused.append(waiting)
                excess -= waiting.waiting_bytes
        if excess > 0:
            return [keepsake]
        for waiting in refused:
            self.remove(waiting)
        self._queue_of(keepsake)[keepsake.id] = keepsake
        self._bytes += keepsake.waiting_bytes
        return refused

    def first(self) -> Keepsake | None:
        """The next to be written; it stays until it is removed, so that a reader finds it either here or on disk."""
        queue = self._others or self._passes
        return next(iter(queue.values()), None)

    def postpone(self, keepsake: Keepsake) -> None:
        """Let others of its kind go first."""
        queue = self._queue_of(keepsake)
        if keepsake.id in queue:
            queue.move_to_end(keepsake.id)

    def remove(self, keepsake: Keepsake) -> None:
        """It is written, or is not to be, unless it was given up meanwhile."""
        if self._queue_of(keepsake).pop(keepsake.id, None) is not None:
            self._bytes -= keepsake.waiting_bytes

    def get(self, inspection_id: str) -> Keepsake | None:
        """What waits of that inspection."""
        return self._others.get(inspection_id) or self._passes.get(inspection_id)

    def _queue_of(self, keepsake: Keepsake) -> OrderedDict[str, Keepsake]:
        return self._passes if keepsake.is_pass else self._others
