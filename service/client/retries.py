"""When a request is sent again: within its deadline, and only where that can help."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from service.client.errors import DeadlinePassedError, NoAnswerError, ServiceError


@dataclass(frozen=True, slots=True)
class Retries:
    """How patient a client is; the deadline of a call goes before all of it."""

    most: int | None = None
    """Retries of one call; as many as the deadline allows without."""
    first_pause_s: float = 0.05
    longest_pause_s: float = 2.0
    """The pause doubles from one to the other; each is shortened by chance, by half at most."""
    connect_s: float = 1.0
    """Longest wait for a connection."""
    attempt_s: float | None = None
    """Longest wait for the answer to one attempt; all that is left of the deadline without."""


PATIENT: Final = Retries()
AT_ONCE_OR_NEVER: Final = Retries(most=0)


class Attempts:
    """The attempts of one call.

    Args:
        retries: How patient to be.
        limit_s: Seconds until the call must have ended, from now.
        clock: Monotonic, in seconds.
        chance: Uniform over 0 to 1.
    """

    def __init__(
        self,
        retries: Retries,
        limit_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._retries = retries
        self._clock = clock
        self._chance = chance
        self._limit_s = limit_s
        self._deadline = clock() + limit_s
        self._failure: ServiceError | None = None
        self.made = 0

    def begin(self) -> float:
        """Count another attempt; the seconds that it may take.

        Raises:
            DeadlinePassedError: There is no time for it.
        """
        left = self.left_s()
        self.made += 1
        return left if self._retries.attempt_s is None else min(left, self._retries.attempt_s)

    def timed_out(self, allowed_s: float) -> ServiceError:
        """What it means that an attempt took all of the seconds that it was allowed."""
        if allowed_s == self._retries.attempt_s:
            return NoAnswerError(f"no answer within {allowed_s:g} s", again=True)
        return self._too_late()

    def left_s(self) -> float:
        """Seconds until the deadline, more than 0.

        Raises:
            DeadlinePassedError: It has passed.
        """
        left = self._deadline - self._clock()
        if left > 0:
            return left
        raise self._too_late()

    def left_ms(self) -> int:
        """Whole milliseconds until the deadline, 1 at least.

        Raises:
            DeadlinePassedError: It has passed.
        """
        return math.ceil(self.left_s() * 1000)

    def pause_after(self, error: ServiceError) -> float:
        """Seconds until the next attempt.

        Raises:
            ServiceError: This very error, where another attempt cannot help, is one too many, or would come too late.
        """
        error.attempts = self.made
        if not error.again or self.made - 1 == self._retries.most:
            raise error
        self._failure = error
        doubled: float = self._retries.first_pause_s * 2 ** min(self.made - 1, 30)
        full = min(doubled, self._retries.longest_pause_s)
        jittered = full * (1 + self._chance()) / 2
        # Whoever was told to come back in a second should not come in the same instant as all the others.
        pause = jittered if error.retry_after_s is None else error.retry_after_s + jittered / 2
        if self._clock() + pause >= self._deadline:
            raise error
        return pause

    def _too_late(self) -> DeadlinePassedError:
        before = "" if self._failure is None else f"; the attempt before: {self._failure.detail}"
        return DeadlinePassedError(f"no answer within {self._limit_s:g} s{before}", code=41)
