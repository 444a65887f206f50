"""Another bundle is activated again and again while parts come: no request fails, none sees a mixture of the two."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from stations import PATIENCE_S, Station, Tell

from benchmarks.tiny_bundle import write_tiny_bundle
from model_export.bundle import load_bundle

VERSIONS = {"1": 1.0, "2": 1.1}
CLIENTS = 8


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_while_bundles_are_swapped(
    station: Station, tmp_path: Path, workers: int, chosen: Callable[[int, int], int], tell: Tell
) -> None:
    parts = chosen(400, 10_000)
    weights = tmp_path / "both"
    bundles = [load_bundle(write_tiny_bundle(weights, version, gain)) for version, gain in VERSIONS.items()]
    station.settings |= {"weights": weights, "workers": workers}
    station.start()
    images = {sample.image: bundles[0].file(sample.image).read_bytes() for sample in bundles[0].manifest.golden_samples}
    names = list(images)
    expected = {
        (bundle.manifest.version, sample.image): sample.score
        for bundle in bundles
        for sample in bundle.manifest.golden_samples
    }
    numbers, taking, seen, swaps = iter(range(parts)), threading.Lock(), Counter[str](), 0

    def controller() -> Counter[str]:
        versions = Counter[str]()
        with httpx.Client(base_url=station.url, timeout=PATIENCE_S, trust_env=False) as http:
            while True:
                with taking:
                    number = next(numbers, None)
                if number is None:
                    return versions
                name = names[number % len(names)]
                query = {"station": "s", "serial": str(number), "trigger": str(number)}
                answer = http.post("/v1/inspections", params=query, content=images[name])
                assert answer.status_code == 200, answer.text
                reply = answer.json()
                version = reply["model_version"]
                assert reply["score"] == pytest.approx(expected[version, name], abs=1e-3)
                assert reply["verdict"] == ("fail" if reply["score"] > 1 else "pass")
                versions[version] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        controllers = [pool.submit(controller) for _ in range(CLIENTS)]
        for version in itertools.cycle("21"):
            activated = httpx.post(
                f"{station.url}/v1/models/tiny/{version}/activate", timeout=PATIENCE_S, trust_env=False
            )
            assert activated.status_code == 200, activated.text
            swaps += 1
            if all(one.done() for one in controllers):
                break
        for one in controllers:
            seen += one.result()
    assert station.stop() == 0
    rows = station.rows("SELECT serial, model_version, score FROM inspections")
    tell(f"{swaps} swaps while {parts:,} parts came, {workers} workers: {dict(seen)} by bundle, 0 failed")
    assert sum(seen.values()) == len(rows) == parts
    assert Counter(version for _, version, _ in rows) == seen
    for serial, version, score in rows:
        assert score == pytest.approx(expected[version, names[int(serial) % len(names)]], abs=1e-3)
    assert swaps >= 4
    assert min(seen.values()) > parts // 20, (seen, swaps)
