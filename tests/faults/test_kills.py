"""Every process is killed at random moments under load; no answered verdict may be lost, contradicted or doubled."""

import random
import time
from collections import Counter
from collections.abc import Callable

import pytest
from controllers import Controllers, against_records, contradictions
from stations import Station, Tell, wait_until

ROLES = ("supervisor", "engine", "worker-0", "worker-1", "all of them")
ROUNDS = 50


@pytest.mark.timeout(1800)
def test_processes_that_are_killed_at_random_moments(
    station: Station, chosen: Callable[[int, int], int], chance: random.Random, seed: int, tell: Tell
) -> None:
    station.settings |= {"workers": 2}
    station.start()
    roles = [role for _ in range(chosen(1, ROUNDS // len(ROLES))) for role in chance.sample(ROLES, len(ROLES))]
    roles = roles[: chosen(3, ROUNDS)]
    killed: Counter[str] = Counter()
    with Controllers(station, 6, seed) as controllers:
        for role in roles:
            controllers.wait_for(10)
            time.sleep(chance.uniform(0, 0.7))
            kill(station, role)
            killed[role] += 1
        controllers.wait_for(50)
    wait_until(station.ready)
    answered = controllers.answers
    lost, contradicted, duplicates = against_records(station, answered)
    contradicted += contradictions({part: found for part, found in answered.items() if found})
    tell(f"killed: {dict(killed)}; outcomes: {dict(controllers.outcomes.most_common())}")
    tell(f"{len(answered)} parts, {controllers.count} answered verdicts, longest wait {controllers.longest_s:.1f} s")
    tell(f"lost: {len(lost)}, contradicted: {len(contradicted)}, duplicates: {len(duplicates)}")
    assert (lost, contradicted, duplicates) == ([], [], [])
    assert station.rows("PRAGMA integrity_check") == [("ok",)]
    assert controllers.outcomes["replayed"] > 0
    unexpected = set(controllers.outcomes) - {"verdict", "replayed", "broken", "given up", "500/50", "503/40"}
    assert not unexpected, station.tail()
    assert station.stop() == 0


def kill(station: Station, role: str) -> None:
    """Kill one process, or all at once as a power failure does; who killed the supervisor starts it again."""
    if role in ("supervisor", "all of them"):
        everyone = sorted(station.pids() - {station.pid})
        station.kill(station.pid)
        if role == "all of them":
            for pid in everyone:
                station.kill(pid)
        station.start()
        return
    station.kill(station.pid_of(role))
