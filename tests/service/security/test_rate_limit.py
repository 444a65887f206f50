import math
import random

import pytest

from service.problems import RATE_LIMITED, Problem
from service.security.rate_limit import RateLimiter, network_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(limiter: RateLimiter, who: object, times: int) -> int:
    """How many of so many requests at once are let through."""
    passed = 0
    for _ in range(times):
        try:
            limiter.take(who)
        except Problem as problem:
            if problem.kind is not RATE_LIMITED:
                raise
        else:
            passed += 1
    return passed


@pytest.mark.parametrize("burst", [1, 3, 100])
@pytest.mark.parametrize("rate", [0.1, 3.0, 7777.7])
def test_burst_then_rate(clock: Clock, rate: float, burst: int) -> None:
    limiter = RateLimiter(rate, burst, clock)
    assert taken(limiter, "a", 2 * burst + 5) == burst
    clock.now += 1.001 / rate
    assert taken(limiter, "a", 5) == 1
    clock.now += 2.001 / rate
    assert taken(limiter, "a", 5) == min(burst, 2)
    clock.now += 10 * burst / rate
    assert taken(limiter, "a", 2 * burst + 5) == burst


def test_long_run_never_exceeds_what_a_token_bucket_gives(clock: Clock) -> None:
    """Against the bucket as it is usually written, with requests at random times."""
    chance = random.Random(5)
    limiter = RateLimiter(10, 4, clock)
    tokens, last = 4.0, clock.now
    for _ in range(5000):
        clock.now += chance.expovariate(15)
        tokens, last = min(4.0, tokens + 10 * (clock.now - last)), clock.now
        expected = tokens >= 1
        if abs(tokens - 1) > 1e-4:
            assert taken(limiter, "a", 1) == expected
            tokens -= expected


def test_each_has_a_bucket_of_its_own(clock: Clock) -> None:
    limiter = RateLimiter(1, 2, clock)
    assert taken(limiter, "a", 5) == 2
    assert taken(limiter, "b", 5) == 2


@pytest.mark.parametrize(("rate", "seconds"), [(0.1, 10), (0.4, 3), (2.0, 1), (5000.0, 1)])
def test_retry_after_is_when_there_is_a_token(clock: Clock, rate: float, seconds: int) -> None:
    limiter = RateLimiter(rate, 1, clock)
    limiter.take("a")
    with pytest.raises(Problem, match=f"more than {rate:g} requests a second; try again in {seconds} s") as refused:
        limiter.take("a")
    assert refused.value.retry_after_s == seconds == max(1, math.ceil(1 / rate))
    assert (refused.value.kind.code, refused.value.kind.status) == (40, 429)
    clock.now += seconds
    limiter.take("a")


def test_refused_requests_cost_nothing(clock: Clock) -> None:
    limiter = RateLimiter(1, 1, clock)
    assert taken(limiter, "a", 1000) == 1
    clock.now += 1
    assert taken(limiter, "a", 1) == 1


def test_table_is_bounded_and_gives_strangers_no_more_when_full(clock: Clock) -> None:
    limiter = RateLimiter(1, 2, clock, most=10)
    assert taken(limiter, "known", 5) == 2
    passed = sum(taken(limiter, number, 2) for number in range(1000))
    assert passed == 2 * 9 + 2  # nine more have a bucket, the others share one
    assert len(limiter) <= 11
    assert taken(limiter, "known", 5) == 0  # nobody was forgotten to make room
    clock.now += 60
    assert taken(limiter, "newcomer", 5) == 2
    assert len(limiter) <= 2


def test_full_table_is_not_searched_for_every_stranger(clock: Clock) -> None:
    limiter = RateLimiter(1, 1, clock, most=10)
    for number in range(10):
        limiter.take(number)
    taken(limiter, "stranger", 1)
    clock.now += 0.05
    before = limiter._full_at
    taken(limiter, "another", 1)
    assert limiter._full_at is before
    clock.now += 0.06
    taken(limiter, "another", 1)
    assert limiter._full_at is not before


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        (None, None, True),
        (None, "10.0.0.1", False),
        ("a:b", "a:c", False),
    ],
)
def test_addresses_that_share_a_bucket(one: str | None, other: str | None, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same
