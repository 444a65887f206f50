"""The committed bundle, as a fresh clone serves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from atsnet.imaging import read_image, to_frame
from atsnet.quality import measure
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


def test_it_says_what_normal_images_are_like() -> None:
    bundle = load_bundle(DEMO)
    manifest = bundle.manifest
    assert manifest.reference is not None
    assert manifest.gates is not None
    assert manifest.reference.images == manifest.calibration.normal_images
    assert all(0 < edge < 1 for edge in manifest.reference.score.values)
    for sample in manifest.golden_samples:
        pixels = to_frame(read_image(bundle.file(sample.image)), manifest.input).pixels
        assert manifest.gates.check(measure(pixels)) is None, sample.image
        pixels[..., 0] //= 4
        assert manifest.gates.check(measure(pixels)) is not None, sample.image


def test_it_is_small_and_all_our_own() -> None:
    bundle = load_bundle(DEMO)
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 20_000_000
    assert bundle.manifest.backbone["licence"].startswith("Apache-2.0")
    assert (bundle.manifest.name, bundle.manifest.version, bundle.manifest.product) == (
        "tec-grain-demo",
        "1",
        "tec-grain",
    )
