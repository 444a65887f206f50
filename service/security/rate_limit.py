"""How often somebody may ask: a token bucket a key, and an address where there are no keys."""

import math
import time
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_address
from typing import Final

from service.problems import RATE_LIMITED, Problem

_MOST: Final = 4096
"""Buckets that are kept at a time."""
_SWEEP_EVERY_S: Final = 0.1

_SLACK_S: Final = 1e-6
"""What sums of intervals may be wrong by."""
_OTHERS: Final = "others"


class RateLimiter:
    """Refuses what comes faster than `rate`, apart from bursts.

    A bucket holds `burst` tokens and gets `rate` a second; a request takes one. It is kept as the one time at which it
    will be full again (the generic cell rate algorithm, ITU-T I.371), so that a check is little more than a comparison.
    Full ones are forgotten when there is no room. When there is still none, newcomers share one bucket: whoever comes
    from many addresses gains neither memory nor requests.

    Args:
        rate: Requests a second.
        burst: Requests that may come at once after a pause, 1 at least.
        clock: Seconds, monotonic.
        most: Buckets that are kept at a time.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic, *, most: int = _MOST
    ) -> None:
        self._interval = 1 / rate
        self._allowance = (burst - 1) / rate
        self._clock = clock
        self._most = most
        self._full_at: dict[Hashable, float] = {}
        self._sweep_at = -math.inf

    def take(self, who: Hashable) -> None:
        """Take a token.

        Raises:
            Problem: Code 40, status 429: there is none; `Retry-After` is when there will be one.
        """
        now = self._clock()
        full_at = self._full_at.get(who)
        if full_at is None:
            if len(self._full_at) >= self._most:
                who = self._make_room(who, now)
            full_at = self._full_at.get(who, now)
        full_at = max(full_at, now)
        wait = full_at - now - self._allowance
        if wait > _SLACK_S:
            seconds = max(1, math.ceil(wait))
            detail = f"more than {1 / self._interval:g} requests a second; try again in {seconds} s"
            raise Problem(RATE_LIMITED, detail, retry_after_s=seconds)
        self._full_at[who] = full_at + self._interval

    def __len__(self) -> int:
        return len(self._full_at)

    def _make_room(self, who: Hashable, now: float) -> Hashable:
        # Not on every request: looking through a full table costs a hundred times what a request costs.
        if now >= self._sweep_at:
            self._full_at = {name: full_at for name, full_at in self._full_at.items() if full_at > now}
            self._sweep_at = now + _SWEEP_EVERY_S
        return who if len(self._full_at) < self._most else _OTHERS


def network_of(client: str | None) -> str:
    """What shares a bucket: an IPv4 address, or the /64 of an IPv6 address, all of which one host may use."""
    if client is None or ":" not in client:
        return client or ""
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if not isinstance(address, IPv6Address):
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex()
