import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_network import CREATED

from atsnet.calibration import Calibration
from atsnet.data.layout import Sample
from atsnet.quality import Quality, learn_gates
from atsnet.reference import Reference
from atsnet.training.run_directory import TrainedRun
from model_export import exporter
from model_export.bundle import Speed, load_bundle
from model_export.exporter import Exported, ExportError, Identity, export_bundle
from model_export.golden import GoldenSampleError
from model_export.parity import ParityError, ParityLimits
from model_export.speed import cpu_name

IDENTITY = Identity("tec-test", "1", "tec-grain")


@pytest.fixture
def arguments(
    run: TrainedRun,
    calibration: Calibration,
    samples: list[Sample],
    weights: Path,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """What `export_bundle` takes; the slow conversion is replaced by its known result."""
    graph = exported.bundle.graph().read_bytes()
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: graph)
    return {
        "run": run,
        "calibration": calibration,
        "identity": IDENTITY,
        "weights_root": weights,
        "parity_samples": samples,
        "golden_samples": samples,
        "created": CREATED,
    }


def everything_under(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_the_bundle_holds_what_it_lists(exported: Exported) -> None:
    path = exported.bundle.path
    assert path.parts[-2:] == ("tec-test", "1")
    files = {name for name in everything_under(path) if (path / name).is_file()}
    assert files == {"manifest.json", *exported.bundle.manifest.files}
    assert {"model.onnx", "MODEL_CARD.md", "parity.json", "samples/good_0.png", "samples/good_0.npy"} <= files
    assert {"good", "crack", "chip", "pit"} == {sample.label for sample in exported.bundle.manifest.golden_samples}
    assert everything_under(path.parent)[0] == "1"
    assert path.stat().st_mode & 0o777 == 0o755
    assert load_bundle(path) == exported.bundle


def test_the_gate_was_passed_on_the_frames(exported: Exported, samples: list[Sample]) -> None:
    assert exported.parity.accepted
    assert exported.parity.frames == len(samples)
    assert exported.parity.score_relative_max <= 1e-4
    stored = json.loads(exported.bundle.file("parity.json").read_text())
    assert stored["score_relative_max"] == exported.parity.score_relative_max


def test_golden_samples_have_both_verdicts(exported: Exported) -> None:
    assert {sample.verdict for sample in exported.bundle.manifest.golden_samples} == {"pass", "fail"}


def test_the_manifest_says_where_it_came_from(exported: Exported, run: TrainedRun, calibration: Calibration) -> None:
    manifest = exported.bundle.manifest
    assert manifest.created == CREATED
    assert manifest.input == run.config.input
    assert (manifest.map_height, manifest.map_width) == (16, 32)
    assert manifest.calibration.model_dump() == calibration.deployed()
    assert manifest.network["student_width"] == 32
    assert manifest.training["training"]["seed"] == 0
    assert manifest.data == {
        "layout": "mvtec",
        "root": "grains",
        "train_images": 2,
        "holdout_images": 1,
        "sha256": "1" * 64,
    }
    assert manifest.backbone["licence"] == "CC0-1.0"
    assert manifest.metrics == {}


def test_a_review_band_travels_into_the_bundle(arguments: dict[str, Any], calibration: Calibration) -> None:
    """A band so wide that nothing passes."""
    band = {"review_score": 0.01, "target_review_rate": 0.4}
    exported = export_bundle(**arguments | {"calibration": calibration.model_copy(update=band)})
    manifest = exported.bundle.manifest
    assert (manifest.calibration.review_score, manifest.calibration.target_review_rate) == (0.01, 0.4)
    assert manifest.training["calibration"] == {"target_false_reject_rate": 0.01, "target_review_rate": 0.4}
    assert {sample.verdict for sample in manifest.golden_samples} == {"review", "fail"}
    card = exported.bundle.file("MODEL_CARD.md").read_text()
    assert "From a calibrated score of 0.01 to 1 a person decides." in card
    assert "a target of 1 % falsely rejected parts, and 40 % that do not pass" in card


def test_what_is_normal_travels_into_the_bundle(
    arguments: dict[str, Any], exported: Exported, calibration: Calibration
) -> None:
    values = np.linspace(1, 2, 30)
    reference = Reference.of(values, 100 * values, values)
    gates = learn_gates([Quality(100 * value, 20 * value, 0.1 * value, 0.0) for value in values])
    learned = calibration.model_copy(update={"reference": reference, "gates": gates})
    bundle = export_bundle(**arguments | {"calibration": learned}).bundle
    assert (bundle.manifest.reference, bundle.manifest.gates) == (reference, gates)
    assert f"| contrast (standard deviation of the grey values) | {gates.contrast.min:.4g} |" in (
        bundle.file("MODEL_CARD.md").read_text()
    )
    before = exported.bundle  # of a calibration that does not say
    assert (before.manifest.reference, before.manifest.gates) == (None, None)
    assert "## Gates" not in before.file("MODEL_CARD.md").read_text()


def test_a_manifest_of_an_older_version_can_be_read(exported: Exported, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported.bundle.path, tmp_path / "older"))
    manifest = json.loads((path / "manifest.json").read_text())
    for name in ("reference", "gates", "speeds", "parity"):
        del manifest[name]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert (load_bundle(path).manifest.reference, load_bundle(path).manifest.gates) == (None, None)


def test_the_card_tells_people(exported: Exported) -> None:
    card = exported.bundle.file("MODEL_CARD.md").read_text()
    for text in (
        "# tec-test, version 1",
        "2026-01-02 03:04 UTC",
        "CC0-1.0",
        "1" * 64,
        "the widest gap",
        "four images are few",
        "was not evaluated",
        "samples/crack_0.png",
        '"student_width": 32',
    ):
        assert text in card
    assert "\\" not in card


def test_same_run_same_bundle(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what it costs, which is measured."""
    speed = Speed(cpu="a processor", cpu_ms=1.5, frames=7)
    monkeypatch.setattr(exporter, "measure_speed", lambda *_: speed)
    arguments |= {"precisions": ("float32", "float16", "int8"), "range_samples": arguments["parity_samples"]}
    first = export_bundle(**arguments).bundle
    again = export_bundle(**arguments | {"weights_root": arguments["weights_root"] / "again"}).bundle
    assert first.digest == again.digest
    assert dict.fromkeys(first.manifest.graphs, speed) == first.manifest.speeds


def test_what_a_frame_costs_is_measured_and_told(exported: Exported, samples: list[Sample]) -> None:
    (speed,) = exported.bundle.manifest.speeds.values()
    assert speed.frames == len(samples)
    assert 0 < speed.cpu_ms < 1000
    card = exported.bundle.file("MODEL_CARD.md").read_text()
    assert f"| `float32` | {speed.cpu_ms:.1f} ms | {len(samples)} | {cpu_name()} |" in card


def test_the_memory_counts_among_the_parameters(exported: Exported, run: TrainedRun) -> None:
    memory = run.network.memory
    assert memory is not None
    tensors = (*run.network.parameters(), memory.prototypes, memory.projection, memory.mean)
    learned = sum(tensor.numel() for tensor in tensors)
    size = f"{learned / 1e6:.2f} million ({4 * learned / 1e6:.2f} MB in float32)"
    card = exported.bundle.file("MODEL_CARD.md").read_text()
    assert f"| parameters of the network, trunk and memory included | {size} |" in card


def test_half_precision_beside_float32(arguments: dict[str, Any]) -> None:
    exported = export_bundle(**arguments, precisions=("float16",))
    bundle = exported.bundle
    manifest = bundle.manifest
    assert manifest.graphs == {"float32": "model.onnx", "float16": "model.float16.onnx"}
    assert set(manifest.parity) == set(exported.parities) == {"float32", "float16"}
    assert manifest.files["model.float16.onnx"].bytes < 0.7 * manifest.files["model.onnx"].bytes
    report = json.loads(bundle.file("parity.float16.json").read_text())
    assert report["score_relative_max"] == manifest.parity["float16"].score_relative_max > 1e-5
    assert report["flipped"] == []
    for sample in manifest.golden_samples:
        answer = bundle.golden_answer(sample, "float16")
        assert answer.verdict == sample.verdict
        assert answer.anomaly_map.endswith(".float16.npy")
        assert 0 < abs(answer.score - sample.score) < 0.05 * sample.score
        assert bundle.check_answer(sample, answer.score, bundle.golden_map(answer), "float16") == 0
    assert "`float16`: ONNX Runtime" in bundle.file("MODEL_CARD.md").read_text()


def test_half_precision_beyond_its_limits_is_not_published(arguments: dict[str, Any], weights: Path) -> None:
    limits = {"float16": ParityLimits(score_relative=1e-7)}
    with pytest.raises(ParityError, match="every half-precision result rounded"):
        export_bundle(**arguments, precisions=("float32", "float16"), parity_limits=limits)
    assert not weights.exists()


def test_int8_beside_float32(arguments: dict[str, Any], samples: list[Sample]) -> None:
    good = [sample for sample in samples if not sample.defective]
    limits = {"int8": ParityLimits(score_relative=0.2, map_relative=0.5)}  # random weights amplify what they are given
    exported = export_bundle(**arguments, precisions=("int8",), range_samples=good, parity_limits=limits)
    bundle = exported.bundle
    manifest = bundle.manifest
    assert manifest.graphs == {"float32": "model.onnx", "int8": "model.int8.onnx"}
    assert set(manifest.parity) == set(manifest.speeds) == {"float32", "int8"}
    assert manifest.score_tolerances == {"int8": 0.01}
    for sample in manifest.golden_samples:
        answer = bundle.golden_answer(sample, "int8")
        assert answer.verdict == sample.verdict
        assert answer.score != sample.score
        assert bundle.check_answer(sample, answer.score, bundle.golden_map(answer), "int8") == 0
    assert "`int8`: ONNX Runtime" in bundle.file("MODEL_CARD.md").read_text()


def test_int8_beyond_its_limits_is_not_published(
    arguments: dict[str, Any], samples: list[Sample], weights: Path
) -> None:
    limits = {"int8": ParityLimits(score_relative=1e-7)}
    with pytest.raises(ParityError, match=r"int8 differs from[\s\S]*test/good_0\.png"):
        export_bundle(**arguments, precisions=("int8",), range_samples=samples, parity_limits=limits)
    assert not weights.exists()


def test_int8_needs_normal_images(arguments: dict[str, Any], weights: Path) -> None:
    with pytest.raises(ExportError, match="to learn the ranges of int8 from"):
        export_bundle(**arguments, precisions=("int8",))
    assert not weights.exists()


def test_a_precision_that_there_is_not(arguments: dict[str, Any], weights: Path) -> None:
    with pytest.raises(ExportError, match="cannot export int4; there are: float32, float16, int8"):
        export_bundle(**arguments, precisions=("int4",))
    assert not weights.exists()


def test_metrics_of_an_evaluated_run(arguments: dict[str, Any], tmp_path: Path) -> None:
    metrics = {
        "image_auroc": 0.98765,
        "aupro": None,
        "labels": [
            {"label": "good", "images": 2, "image_auroc": None, "escape_interval": None},
            {"label": "crack", "images": 3, "image_auroc": 0.9, "escape_interval": [0.008403759, 0.905700675]},
        ],
        "decisions": {"score_threshold": 123.0, "escapes": 1, "false_reject_interval": [0.0, 0.841886117]},
        "without_mask": ["crack/1.png", "crack/2.png"],
        "cost": {
            "device": "CPU (some, 3 cores)",
            "threads": 2,
            "latency_ms": 123.4,
            "latency_frames": 50,
            "frame_height": 64,
            "frame_width": 128,
            "parameters": 7,
            "parameter_bytes": 28,
            "macs": 1_230_000_000,
        },
    }
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    arguments["run"] = replace(arguments["run"], directory=tmp_path)
    bundle = export_bundle(**arguments).bundle
    assert bundle.manifest.metrics == metrics
    card = bundle.file("MODEL_CARD.md").read_text()
    for line in (
        "| image_auroc | 0.9877 |",
        "| aupro | not measured |",
        "| decisions.escapes | 1 |",
        "| decisions.false_reject_interval | 0 to 0.8419 |",
        "| good | 2 | not measured | not measured |",
        "| crack | 3 | 0.9 | 0.008404 to 0.9057 |",
        "at another threshold",
        "in PyTorch on CPU (some, 3 cores), CPU threads: 2. From a frame to its map took 123 ms, the median of 50",
        "A frame of 128x64 takes 1.23 GMAC",
    ):
        assert line in card
    assert "without_mask" not in card
    assert "latency_ms" not in card


@pytest.mark.parametrize("content", ["[1]", "{"])
def test_damaged_metrics_are_named(arguments: dict[str, Any], tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(content)
    arguments["run"] = replace(arguments["run"], directory=tmp_path)
    with pytest.raises(ExportError, match=r"metrics\.json"):
        export_bundle(**arguments)


def test_an_altered_graph_is_not_published(
    arguments: dict[str, Any], exported: Exported, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_from_string(exported.bundle.graph().read_bytes())
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "tail.weigh.0.weight")
    altered = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(altered, weight.name))
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: model.SerializeToString())
    with pytest.raises(ParityError, match=r"frames are beyond the limits[\s\S]*test/good_0\.png") as refusal:
        export_bundle(**arguments)
    assert refusal.value.report.beyond
    assert not weights.exists()


def test_a_wrong_map_threshold_in_the_graph_is_not_published(arguments: dict[str, Any], weights: Path) -> None:
    calibration = arguments["calibration"]
    arguments["calibration"] = calibration.model_copy(update={"map_threshold": 1.05 * calibration.map_threshold})
    with pytest.raises(ParityError):
        export_bundle(**arguments)
    assert not weights.exists()


def test_an_existing_version_is_never_replaced(arguments: dict[str, Any], weights: Path) -> None:
    first = export_bundle(**arguments).bundle
    with pytest.raises(ExportError, match="bundles never change"):
        export_bundle(**arguments)
    assert load_bundle(first.path).digest == first.digest
    arguments["identity"] = replace(IDENTITY, version="2")
    export_bundle(**arguments)
    assert sorted(path.name for path in (weights / "tec-test").iterdir()) == ["1", "2"]


def test_an_export_that_breaks_off_leaves_nothing(
    arguments: dict[str, Any], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "render_model_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(**arguments)
    assert not any(path.is_file() for path in weights.rglob("*"))
    assert list((weights / "tec-test").iterdir()) == []


def test_a_version_published_meanwhile_wins(
    arguments: dict[str, Any], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = exporter.check_golden_samples

    def overtaken(*args: Any) -> Any:
        (weights / "tec-test" / "1").mkdir()
        (weights / "tec-test" / "1" / "theirs").touch()
        return check(*args)

    monkeypatch.setattr(exporter, "check_golden_samples", overtaken)
    with pytest.raises(ExportError, match="cannot be published"):
        export_bundle(**arguments)
    assert everything_under(weights) == ["tec-test", "tec-test/1", "tec-test/1/theirs"]


def test_a_place_that_cannot_be_written(arguments: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"):
        export_bundle(**{**arguments, "weights_root": tmp_path / "file" / "weights"})


def test_the_gate_needs_frames(arguments: dict[str, Any], weights: Path) -> None:
    with pytest.raises(ExportError, match="no images to compare"):
        export_bundle(**{**arguments, "parity_samples": []})
    with pytest.raises(GoldenSampleError, match="golden samples"):
        export_bundle(**{**arguments, "golden_samples": []})
    assert not weights.exists()


@pytest.mark.parametrize("field", ["name", "version", "product"])
@pytest.mark.parametrize("value", ["", "../up", "a/b", "Upper", ".hidden", "line\n"])
def test_names_that_are_no_words(field: str, value: str) -> None:
    with pytest.raises(ExportError, match=field):
        replace(IDENTITY, **{field: value})
