"""The committed bundle, as a fresh clone serves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.inspection import LocalInspector, open_bundle
from model_export.bundle import load_bundle

DEMO = Path(__file__).parents[1] / "weights" / "tec-grain-demo" / "1"


@pytest.fixture(scope="module")
def inspector() -> Iterator[LocalInspector]:
    with open_bundle(DEMO) as opened:  # runs the golden samples
        yield opened


def test_good_samples_pass_and_defective_ones_fail(inspector: LocalInspector) -> None:
    samples = load_bundle(DEMO).manifest.golden_samples
    assert {sample.label for sample in samples} == {"good", "crack", "chip", "pit", "contamination", "scratch"}
    for sample in samples:
        inspected, _ = inspector.inspect(sample.image, (DEMO / sample.image).read_bytes(), overlay=False)
        assert inspected.verdict == ("pass" if sample.label == "good" else "fail"), sample.image


def test_it_is_small_and_all_our_own() -> None:
    bundle = load_bundle(DEMO)
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 20_000_000
    assert bundle.manifest.backbone["licence"].startswith("Apache-2.0")
    assert (bundle.manifest.name, bundle.manifest.version, bundle.manifest.product) == (
        "tec-grain-demo",
        "1",
        "tec-grain",
    )
