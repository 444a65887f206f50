"""Thousands of damaged images: every reply is one of the contract's, and memory stays flat."""

from collections import Counter
from collections.abc import Callable

import httpx
import orjson
import pytest
from mutations import kinds, mutants
from stations import PATIENCE_S, Station, Tell

KNOWN = {(200, 0), (400, 10), (413, 11), (422, 12), (422, 13)}
MIB = 1024 * 1024
GROWTH_MIB = 16
"""Caches of allocators and of the database; images that stayed would take ten times as much."""


@pytest.mark.timeout(1200)
def test_mutated_images(station: Station, chosen: Callable[[int, int], int], seed: int, tell: Tell) -> None:
    count = chosen(600, 10_000)
    warm_up = count // 4
    station.start()
    replies: Counter[tuple[int, int]] = Counter()
    with httpx.Client(base_url=station.url, timeout=PATIENCE_S, trust_env=False) as http:
        for name, (image, fields) in kinds().items():
            response = http.post("/v1/inspections", content=image, params=fields)
            assert response.status_code == 200, f"{name}: {response.text}"
        for number, (name, image, fields) in enumerate(mutants(seed, count)):
            if number == warm_up:
                before = station.census()["rss_bytes"]
            response = http.post("/v1/inspections", content=image, params={**fields, "trigger": number})
            document = orjson.loads(response.content)
            replies[response.status_code, document["code"]] += 1
            assert (response.status_code, document["code"]) in KNOWN, f"{name}: {response.text}"
            assert list(document)[:4] == ["v", "trigger", "result", "code"], f"{name}: {response.text}"
            assert (document["v"], document["trigger"]) == (1, number)
            assert document["result"] in ((1, 2, 4) if response.status_code == 200 else (0,)), (
                f"{name}: {response.text}"
            )
            if response.status_code != 200:
                assert response.headers["Content-Type"] == "application/problem+json"
    grown_mib = (station.census()["rss_bytes"] - before) / MIB
    tell(f"{count} mutants: {dict(replies.most_common())}; memory grew by {grown_mib:.1f} MiB of {before / MIB:.0f}")
    assert grown_mib < GROWTH_MIB
    assert replies[200, 0] > 0
    assert replies[400, 10] > 0
    assert not station.events("unexpected_error"), station.tail()
    assert station.ready()
    assert station.stop() == 0
