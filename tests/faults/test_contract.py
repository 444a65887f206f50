"""Requests that schemathesis makes of the OpenAPI document: no reply that the document does not know, no 5xx."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from stations import Station, Tell

PROGRAM = Path(__file__).parents[2] / ".cache" / "schemathesis" / "bin" / "schemathesis"
CHECKS = """
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.enabled = false
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]
"""
"""All but whether every request that fits the document's schemas is accepted, and every other one refused: whether
bytes are an image, no schema says, and empty fields count as not given. 503 and 504 are answers of the contract: not
ready, and no verdict before the deadline that the request named."""
OPEN_INFERENCE = """
[[operations]]
include-path-regex = "^/v2/"
[operations.checks]
unsupported_method.enabled = false
allow_header_conformance.enabled = false
"""
"""Whatever this protocol has and the service has not is answered in the protocol's own way, whatever the method."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("known", [False, True], ids=["made-up inspections", "a recorded inspection"])
def test_contract(station: Station, long: bool, seed: int, known: bool, tell: Tell) -> None:
    if not long:
        pytest.skip("part of `make test-faults`; tests/service/test_openapi.py has the short form")
    if not PROGRAM.exists():
        pytest.fail(f"{PROGRAM} is not installed; `make test-faults` does that")
    station.start()
    for number, image in enumerate(station.samples):
        answer = station.post(image, station="s1", lot="L1", serial="A", trigger=number).json()
    settings = CHECKS + OPEN_INFERENCE
    if known:
        settings += f'[parameters]\ninspection_id = "{answer["id"]}"\n'
    configuration = station.folder / "schemathesis.toml"
    configuration.write_text(settings)
    command = [str(PROGRAM), "--config-file", str(configuration), "run", f"{station.url}/openapi.json"]
    command += ["--max-examples", "300", "--seed", str(seed), "--continue-on-failure"]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--generation-database", "none"]
    command += ["--exclude-path", "/v1/events"]  # its answer never ends; it has tests of its own
    ran = subprocess.run(
        command, cwd=station.folder, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"}
    )
    generated = re.search(r"(\d+) generated", ran.stdout)
    tell(f"{0 if generated is None else generated[1]} requests")
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert generated is not None
    assert int(generated[1]) > 500
    assert not station.events("unexpected_error"), station.tail()
    assert station.ready()
    assert station.stop() == 0
