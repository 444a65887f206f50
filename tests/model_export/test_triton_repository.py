import json
import re
import shutil
from pathlib import Path

import pytest

from model_export.bundle import Bundle, describe_file, load_bundle
from model_export.exporter import Exported
from model_export.triton import TritonRepositoryError, model_config, versions, write_model_repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


def with_version(exported: Exported, version: str, tmp_path: Path, *, graph: bytes) -> Bundle:
    path = Path(shutil.copytree(exported.bundle.path, tmp_path / f"bundle-{version}"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["version"] = version
    (path / "model.onnx").write_bytes(graph)
    manifest["files"]["model.onnx"] = describe_file(path / "model.onnx").model_dump()
    (path / "manifest.json").write_text(json.dumps(manifest))
    return load_bundle(path)


def test_what_is_written(exported: Exported, repository: Path) -> None:
    target = write_model_repository(exported.bundle, repository)
    assert target == repository / "tec-test" / "1"
    assert (target / "model.onnx").read_bytes() == exported.bundle.graph().read_bytes()
    assert sorted(path.name for path in target.parent.iterdir()) == ["1", "config.pbtxt"]
    assert [path.name for path in target.iterdir()] == ["model.onnx"]
    config = (target.parent / "config.pbtxt").read_text()
    sha256 = exported.bundle.manifest.files["model.onnx"].sha256
    for text in (
        'name: "tec-test"',
        "max_batch_size: 32",
        "TYPE_UINT8 dims: [ 64, 128, 4 ]",
        "dims: [ 16, 32 ]",
        f'key: "graph_sha256.1" value: {{ string_value: "{sha256}" }}',
        'key: "precision" value: { string_value: "float32" }',
    ):
        assert text in config
    assert [int(size) for size in re.findall(r"batch_size: (\d+) inputs", config)] == [1, 2, 4, 8, 16, 32]


def test_writing_it_again_changes_nothing(exported: Exported, repository: Path) -> None:
    write_model_repository(exported.bundle, repository)
    before = (repository / "tec-test" / "config.pbtxt").read_text()
    write_model_repository(exported.bundle, repository)
    assert (repository / "tec-test" / "config.pbtxt").read_text() == before


def test_versions_live_side_by_side(exported: Exported, repository: Path, tmp_path: Path) -> None:
    write_model_repository(exported.bundle, repository)
    for version, number in (("7", "7"), ("7.1-rc", "8")):
        bundle = with_version(exported, version, tmp_path, graph=version.encode())
        assert write_model_repository(bundle, repository).name == number
        assert write_model_repository(bundle, repository).name == number  # the same graph again
    found = versions(repository / "tec-test")
    assert sorted(found) == [1, 7, 8]
    config = (repository / "tec-test" / "config.pbtxt").read_text()
    for number, sha256 in found.items():
        assert f'"graph_sha256.{number}" value: {{ string_value: "{sha256}" }}' in config


def test_a_number_never_changes_its_graph(exported: Exported, repository: Path, tmp_path: Path) -> None:
    write_model_repository(exported.bundle, repository)
    with pytest.raises(TritonRepositoryError, match="1 holds another graph"):
        write_model_repository(with_version(exported, "1", tmp_path, graph=b"other"), repository)


def test_a_place_that_cannot_be_written(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TritonRepositoryError, match="cannot be written"):
        write_model_repository(exported.bundle, tmp_path / "file")


def test_triton_can_read_the_configuration(exported: Exported) -> None:
    """Against Triton's own schema, where its client is installed."""
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format")
    config = text_format.Parse(
        model_config(exported.bundle, {1: "a" * 64, 3: "b" * 64}), model_config_pb2.ModelConfig()
    )
    assert (config.name, config.backend, config.max_batch_size) == ("tec-test", "onnxruntime", 32)
    assert config.version_policy.latest.num_versions == 2
    (images,) = config.input
    assert (images.data_type, list(images.dims)) == (model_config_pb2.TYPE_UINT8, [64, 128, 4])
    score, anomaly_map = config.output
    assert (list(score.dims), list(score.reshape.shape), score.HasField("reshape")) == ([1], [], True)
    assert list(anomaly_map.dims) == [16, 32]
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override
    assert [warm_up.batch_size for warm_up in config.model_warmup] == [1, 2, 4, 8, 16, 32]
    assert config.model_warmup[0].inputs["images"].zero_data
    assert config.parameters["graph_sha256.3"].string_value == "b" * 64
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert dict(accelerator.parameters) == {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
