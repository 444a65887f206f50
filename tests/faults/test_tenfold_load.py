"""Ten times the load that the service can take: as many verdicts as ever, and quick refusals for the rest."""

import asyncio
from collections.abc import Callable

import pytest
from flood import Answers, flood
from slow_runtime import FRAME_S
from stations import Station, Tell, percentile

LANES = 2
CAPACITY = LANES / FRAME_S
DEADLINE_MS = 1500
MIB = 1024 * 1024


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "workers and engine"])
def test_ten_times_the_capacity(
    station: Station, chosen: Callable[[int, int], int], long: bool, workers: int, tell: Tell
) -> None:
    if workers > 1 and not long:
        pytest.skip("part of `make test-faults`")
    station.settings |= {"workers": workers, "sessions": LANES, "log_level": "error"}
    station.slow = True
    station.start()
    request = (
        f"POST /v1/inspections?deadline_ms={DEADLINE_MS} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(station.samples[0])}\r\n\r\n"
    ).encode() + station.samples[0]

    def loaded(rate: float | None, seconds: float) -> Answers:
        return asyncio.run(flood(station.port, request, rate=rate, clients=4 * LANES, seconds=seconds))

    peak = loaded(None, chosen(2, 10))
    assert set(peak.took_s) == {200}
    loaded(10 * CAPACITY, chosen(1, 10))  # once for what is made when it is first needed
    before = station.rss_bytes()
    answers = loaded(10 * CAPACITY, chosen(3, 60))
    grown = station.rss_bytes() / before - 1
    verdicts, refusals = answers.took_s[200], answers.took_s[429]
    late = len(answers.took_s[504])
    refused_ms, accepted_ms = (1e3 * percentile(times, 0.99) for times in (refusals, verdicts))
    offered = f"offered {answers.offered:.0f}/s for {answers.seconds:.0f} s"
    tell(f"capacity {CAPACITY:.0f}/s, peak {peak.goodput:.1f}/s; {offered}")
    tell(
        f"goodput {answers.goodput:.1f}/s = {answers.goodput / peak.goodput:.3f} of the peak; {len(refusals)} refusals"
    )
    tell(f"p99 of refusals {refused_ms:.1f} ms, of verdicts {accepted_ms:.0f} ms (deadline {DEADLINE_MS}); late {late}")
    tell(f"held back {answers.held_back}, broken {answers.broken}; memory {before / MIB:.0f} MiB {100 * grown:+.1f} %")
    assert set(answers.took_s) <= {200, 429, 504}
    assert answers.without_retry_after == 0
    assert answers.broken == 0
    assert len(refusals) > len(verdicts) > 0
    if long:
        assert answers.offered > 9 * CAPACITY
        assert answers.goodput >= 0.9 * peak.goodput
        assert refused_ms <= 50
        assert late + sum(took > DEADLINE_MS / 1e3 for took in verdicts) <= 0.01 * (len(verdicts) + late)
        assert grown < 0.05
    assert station.ready()
    assert station.stop() == 0
