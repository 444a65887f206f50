"""A worker's counts, on their way to the engine."""

import asyncio
from collections import Counter
from typing import Final

from service.engine.session import Session
from service.metrics import OTHER_STATIONS

_COUNTS_S: Final = 0.1
_MAX_KINDS: Final = 64


class RemoteCounts:
    """Gathers what this worker counts; the engine keeps the sums, so that they outlive the worker."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str | None, str]] = Counter()
        self._missed = 0
        self._session: Session | None = None
        self._sending: asyncio.TimerHandle | None = None

    def attach(self, session: Session | None) -> None:
        """Send to this engine from now on; to none, they gather."""
        self._session = session
        self._schedule()

    def request(self, station: str | None, outcome: str) -> None:
        """Count a request; where too many kinds gather, for one note and while there is no engine, stations merge."""
        if (station, outcome) not in self._requests and len(self._requests) >= _MAX_KINDS:
            self.send()
            if self._requests:
                station = OTHER_STATIONS
        self._requests[station, outcome] += 1
        self._schedule()

    def deadline_missed(self) -> None:
        """Count a request whose deadline passed."""
        self._missed += 1
        self._schedule()

    def send(self) -> None:
        """Send what has gathered."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._session is None or not (self._requests or self._missed):
            return
        counts = [(station, outcome, times) for (station, outcome), times in self._requests.items()]
        self._session.count(counts, self._missed)
        self._requests.clear()
        self._missed = 0

    def _schedule(self) -> None:
        if self._sending is None and self._session is not None:
            self._sending = asyncio.get_running_loop().call_later(_COUNTS_S, self.send)
