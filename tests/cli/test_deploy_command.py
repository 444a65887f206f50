"""A bundle that exists, put where a GPU's runtime takes it from; TensorRT is a stand-in."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from graph_engines import GraphEngines
from invoking import atsnet, without_training

from model_export import tensorrt_calls
from model_export.bundle import load_bundle

NAMES = ("--name", "tiny", "--version", "9", "--product", "tec-grain")


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[GraphEngines], GraphEngines]:
    def use(made: GraphEngines) -> GraphEngines:
        monkeypatch.setattr(tensorrt_calls, "load_tensorrt", lambda: made)
        return made

    return use


Use = Callable[[GraphEngines], GraphEngines]


def kept(engines: Path) -> list[Path]:
    return sorted(engines.glob("*.engine"))


def everything_in(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_a_model_repository_of_a_bundle_that_exists_without_torch(bundle: Path, tmp_path: Path) -> None:
    before = everything_in(bundle)
    for _ in range(2):  # again changes nothing
        code, out, error = without_training("deploy", bundle, "--triton", tmp_path / "models", "--json")
        assert code == 0, error
        made = json.loads(out)
        assert made["digest"] == load_bundle(bundle).digest
        assert made["made"] == {"triton": str(tmp_path / "models" / "tiny" / "1")}
        graph = Path(made["made"]["triton"]) / "model.onnx"
        assert graph.read_bytes() == load_bundle(bundle).graph("float16").read_bytes()
    assert everything_in(bundle) == before


def test_an_engine_of_a_bundle_that_exists_without_torch(bundle: Path, engines: Path) -> None:
    stand_in = (
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import graph_engines, model_export.tensorrt_calls as calls\n"
        "calls.load_tensorrt = graph_engines.GraphEngines"
    )
    options = ("--tensorrt", "--engines", engines, "--json")
    code, out, error = without_training("deploy", bundle, *options, before=stand_in)
    assert code == 0, error
    (engine,) = kept(engines)
    assert json.loads(out)["made"] == {"tensorrt": str(engine)}
    assert engine.with_suffix(".json").exists()


def test_a_table_says_what_was_made(bundle: Path, engines: Path, tmp_path: Path, use: Use) -> None:
    trt = use(GraphEngines())
    options = ("--triton", tmp_path / "m", "--tensorrt", "--engines", engines)
    for count in (1, 2):
        result = atsnet("deploy", bundle, *options)
        assert result.exit_code == 0, result.stderr
        assert trt.built == count
    assert re.search(r"triton .* tensorrt ", " ".join(result.stdout.split()))


@pytest.mark.parametrize(
    ("factor", "with_images", "code", "message"),
    [(1, True, 0, ""), (1.5, True, 5, "differs from ONNX Runtime"), (1.5, False, 5, "off by 0.")],
)
def test_what_an_engine_must_pass(
    bundle: Path, grains: Path, engines: Path, use: Use, factor: float, with_images: bool, code: int, message: str
) -> None:
    use(GraphEngines(factor))
    images = ("--images", grains, "--parity-images", 6) if with_images else ()
    result = atsnet("deploy", bundle, "--tensorrt", "--engines", engines, *images)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert len(kept(engines)) == (code == 0)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 2, "nothing to do; give --triton DIR, --tensorrt, or both"),
        (("--triton", "models", "--images", "data"), 2, "add --tensorrt"),
        (("--tensorrt",), 4, "atsnet[tensorrt]"),
    ],
)
def test_what_cannot_be_asked_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = atsnet("deploy", bundle, *options)
    assert result.exit_code == code
    assert message in result.stderr


def test_bundles_that_cannot_be_deployed(bundle: Path, engines: Path, tmp_path: Path, use: Use) -> None:
    result = atsnet("deploy", tmp_path / "none", "--triton", tmp_path / "models")
    assert result.exit_code == 4
    assert "no bundle at" in result.stderr
    altered = Path(shutil.copytree(bundle, tmp_path / "altered"))
    (altered / "model.float16.onnx").write_bytes(b"another graph")
    result = atsnet("deploy", altered, "--triton", tmp_path / "models")
    assert result.exit_code == 4
    assert "is not the file that was validated" in result.stderr
    shutil.copytree(bundle, tmp_path / "single")
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["graphs"]["float16"]
    (tmp_path / "single" / "manifest.json").write_text(json.dumps(manifest))
    trt = use(GraphEngines())
    both = ("--triton", tmp_path / "models", "--tensorrt", "--engines", engines)
    result = atsnet("deploy", tmp_path / "single", *both)
    assert result.exit_code == 4
    assert "has no float16 graph" in result.stderr
    assert trt.built == 0
    assert not (tmp_path / "models").exists()


def go_on(result: Any) -> list[str]:
    """The command that a failed export names."""
    command = re.search(r"is published all the same; go on with `atsnet (.*)`", result.stderr)
    assert command, result.stderr
    return shlex.split(command[1])


def test_an_export_that_fails_after_it_published_says_how_to_go_on(
    evaluated: Path, grains: Path, tmp_path: Path, engines: Path, use: Use
) -> None:
    """The number is taken in the model repository, and then the engine answers wrongly."""
    trt = use(GraphEngines(1.5))
    taken = tmp_path / "models" / "tiny" / "9" / "model.onnx"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"another graph")
    options = ("--precision", "fp32,fp16", "--triton", tmp_path / "models", "--tensorrt", "--engines", engines)
    result = atsnet("export", evaluated, grains, *NAMES, *options, "--weights", tmp_path / "weights")
    assert result.exit_code == 4
    assert "holds another graph" in result.stderr
    assert load_bundle(tmp_path / "weights" / "tiny" / "9")
    command = go_on(result)
    taken.unlink()
    assert atsnet(*command).exit_code == 5
    assert not kept(engines)
    trt.factor = 1
    again = atsnet(*command)
    assert again.exit_code == 0, again.stderr
    assert kept(engines)
    assert taken.read_bytes() == load_bundle(tmp_path / "weights" / "tiny" / "9").graph("float16").read_bytes()
