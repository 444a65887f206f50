import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_export.bundle import MANIFEST_NAME, Bundle, BundleError, Calibration, list_bundles, load_bundle
from model_export.exporter import Exported


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(exported.bundle.path, tmp_path / "tec-test" / "1")))


def edit(bundle: Bundle, **changes: Any) -> None:
    path = bundle.path / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_copy_is_the_same_bundle(exported: Exported, copied: Bundle) -> None:
    assert copied.digest == exported.bundle.digest
    assert copied.manifest == exported.bundle.manifest


def test_an_altered_byte_is_found(copied: Bundle) -> None:
    path = copied.graph()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx is not the file that was validated"):
        load_bundle(copied.path)


def test_a_missing_file_is_found(copied: Bundle) -> None:
    sample = copied.manifest.golden_samples[0]
    copied.file(sample.anomaly_map).unlink()
    with pytest.raises(BundleError, match=sample.anomaly_map):
        load_bundle(copied.path)


def test_files_outside_the_bundle_are_refused_unread(copied: Bundle) -> None:
    for outside in ("../secret", "/etc/hostname", "samples/../../secret"):
        edit(copied, files={outside: {"sha256": "0" * 64, "bytes": 0}})
        with pytest.raises(BundleError, match="outside the bundle"):
            load_bundle(copied.path)


def test_a_link_out_of_the_bundle_is_refused(copied: Bundle, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    shutil.move(copied.graph(), secret)
    copied.graph().symlink_to(secret)
    with pytest.raises(BundleError, match="outside the bundle"):
        load_bundle(copied.path)


def test_an_unknown_schema_is_refused(copied: Bundle) -> None:
    edit(copied, schema_version=2)
    with pytest.raises(BundleError, match="schema_version"):
        load_bundle(copied.path)


def test_an_unknown_key_is_refused(copied: Bundle) -> None:
    edit(copied, surprise=1)
    with pytest.raises(BundleError, match="surprise"):
        load_bundle(copied.path)


def test_every_file_that_is_used_must_be_listed(copied: Bundle) -> None:
    (copied.path / "other.onnx").write_bytes(b"")
    edit(copied, graphs={"float32": "other.onnx"})
    with pytest.raises(BundleError, match=r"uses 'other\.onnx', but lists no sha256"):
        load_bundle(copied.path)


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        load_bundle(tmp_path / "none")


def test_a_precision_that_it_lacks(copied: Bundle) -> None:
    with pytest.raises(BundleError, match="no float16 graph; has: float32"):
        copied.graph("float16")


def test_a_precision_without_golden_answers(copied: Bundle) -> None:
    sample = copied.manifest.golden_samples[0]
    with pytest.raises(BundleError, match=f"does not say what float16 must answer to {sample.image}"):
        copied.check_answer(sample, sample.score, copied.golden_map(sample), "float16")


def test_a_manifest_from_before_there_were_precisions(copied: Bundle) -> None:
    path = copied.path / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    del manifest["parity"], manifest["score_tolerances"]
    for sample in manifest["golden_samples"]:
        del sample["answers"]
    path.write_text(json.dumps(manifest))
    bundle = load_bundle(copied.path)
    sample = bundle.manifest.golden_samples[0]
    assert bundle.check_answer(sample, sample.score, bundle.golden_map(sample)) == 0


def test_listing_leaves_out_what_is_under_way(copied: Bundle, tmp_path: Path) -> None:
    shutil.copytree(copied.path, copied.path.parent / ".2-abcdef")
    shutil.copytree(copied.path, copied.path.parent / "0.9")
    assert list_bundles(tmp_path) == [("tec-test", "0.9"), ("tec-test", "1")]
    assert list_bundles(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("score", "review_score", "verdict"),
    [
        (2.0, None, "pass"),
        (2.001, None, "fail"),
        (1.6, 0.8, "review"),
        (1.59, 0.8, "pass"),
        (2.0, 0.8, "review"),
        (float("nan"), None, "fail"),
    ],
)
def test_verdicts(score: float, review_score: float | None, verdict: str) -> None:
    calibration = Calibration(
        score_threshold=2,
        map_threshold=1,
        review_score=review_score,
        target_false_reject_rate=0.01,
        normal_images=1,
        method="",
    )
    assert calibration.verdict(score) == verdict


def test_the_format_needs_neither_torch_nor_onnxruntime() -> None:
    program = (
        "import sys, model_export.bundle; "
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'onnxscript', 'safetensors'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
