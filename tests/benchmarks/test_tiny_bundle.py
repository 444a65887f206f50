from pathlib import Path

import numpy as np

from atsnet.imaging import read_image, to_frame
from benchmarks.graph import INPUT, OUTPUTS, golden_frames, open_session
from benchmarks.tiny_bundle import NAME, write_tiny_bundle
from model_export.bundle import load_bundle


def test_its_network_answers_its_own_golden_samples_alone_and_in_batches(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    assert bundle.path == tmp_path / NAME
    session = open_session(bundle.graph())
    samples = bundle.manifest.golden_samples
    together = session.run(OUTPUTS, {INPUT: golden_frames(bundle)})
    for sample, score, anomaly_map in zip(samples, *together, strict=True):
        image = read_image(bundle.file(sample.image))
        frame = to_frame(image, bundle.manifest.input).pixels[np.newaxis]
        (alone,), (map_alone,) = session.run(OUTPUTS, {INPUT: frame})
        bundle.check_answer(sample, float(score), anomaly_map)
        bundle.check_answer(sample, float(alone), map_alone)


def test_its_verdicts_tell_good_from_defective(tmp_path: Path) -> None:
    samples = load_bundle(write_tiny_bundle(tmp_path)).manifest.golden_samples
    assert {(sample.label, sample.verdict) for sample in samples} == {("good", "pass"), ("spot", "fail")}
