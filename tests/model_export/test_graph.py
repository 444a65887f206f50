from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_network import CONFIG, read_pixels, sane_network

from atsnet.config import Config
from atsnet.data.layout import Sample
from atsnet.training.run_directory import TrainedRun
from model_export.exporter import Exported
from model_export.graph import DeployableGraph, _least
from model_export.onnx_file import OnnxExportError, operator_counts, to_onnx
from model_export.scorers import OnnxScorer
from model_export.torch_scorer import TorchScorer

MAP_THRESHOLD = 1.7


@pytest.fixture(scope="module")
def graph(exported: Exported) -> bytes:
    return exported.bundle.graph().read_bytes()


def masked(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.copy()
    pixels[:, :20, :, -1] = 0
    pixels[:, :, 101:, -1] = 0
    return pixels


def test_folding_changes_nothing(run: TrainedRun, samples: list[Sample]) -> None:
    pixels = torch.from_numpy(masked(read_pixels(samples, CONFIG.input)))
    with torch.no_grad():
        score, anomaly_map = run.network(pixels)
        folded_score, folded_map = DeployableGraph(run.network, MAP_THRESHOLD)(pixels)
    torch.testing.assert_close(folded_score, score, rtol=5e-5, atol=1e-6)
    torch.testing.assert_close(folded_map, anomaly_map / MAP_THRESHOLD, rtol=1e-4, atol=1e-5)
    assert float(folded_map[:, :5].abs().max()) == 0


def variant(changes: dict[str, Any], **shape: Any) -> Config:
    content = CONFIG.model_dump()
    return Config.model_validate(content | {"network": content["network"] | changes, "input": content["input"] | shape})


NO_MEMORY = {"memory_size": 0, "student_sees": "features"}
NOTHING = {**NO_MEMORY, "ema_norm": False, "coupling": False, "context": False, "evidence_width": 0}
VARIANTS: list[dict[str, Any]] = [
    {"student_sees": "features"},
    NO_MEMORY,
    {"ema_norm": False},
    {"coupling": False},
    {"context": False},
    {"evidence_width": 0},
    NOTHING,
    {"memory_weight": 0.0, "scale_weights": (0.0, 2.0, 1.0)},
    {"scale_weights": (0.0, 0.0, 0.0)},
    {"scale_weights": (0.0, 0.0, 0.0), "memory_weight": 0.0},
    {"evidence_weight": 0.0},
    {"border_rings": 1},
]


def variant_name(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in changes.items())


@pytest.mark.parametrize("changes", VARIANTS, ids=variant_name)
def test_folding_changes_nothing_whatever_is_switched_off(changes: dict[str, Any], samples: list[Sample]) -> None:
    config = variant(changes)
    pixels = masked(read_pixels(samples, config.input))
    network = sane_network(config, read_pixels(samples[:4], config.input))
    with torch.no_grad():
        score, anomaly_map = network(torch.from_numpy(pixels))
        folded_score, folded_map = DeployableGraph(network, MAP_THRESHOLD)(torch.from_numpy(pixels))
    assert score.std() > 0
    torch.testing.assert_close(folded_score, score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded_map, anomaly_map / MAP_THRESHOLD, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changes", [NO_MEMORY, NOTHING], ids=variant_name)
def test_the_file_scores_as_the_network_whatever_is_switched_off(
    changes: dict[str, Any], samples: list[Sample]
) -> None:
    config = variant(changes, width=64)
    network = sane_network(config, read_pixels(samples[:4], config.input))
    scorer = OnnxScorer(to_onnx(DeployableGraph(network, MAP_THRESHOLD), config.input))
    pixels = read_pixels(samples, config.input)
    expected, found = TorchScorer(network, MAP_THRESHOLD)(pixels), scorer(pixels)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-4)


def test_folding_leaves_the_network_alone(run: TrainedRun) -> None:
    before = {key: value.clone() for key, value in run.network.state_dict().items()}
    DeployableGraph(run.network, MAP_THRESHOLD)
    after = run.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_map_threshold_that_cannot_be_used(run: TrainedRun, threshold: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        DeployableGraph(run.network, threshold)


def test_inputs_and_outputs(graph: bytes) -> None:
    model = onnx.load_from_string(graph)

    def describe(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    kind = onnx.TensorProto
    assert [describe(value) for value in model.graph.input] == [("images", kind.UINT8, ["batch", 64, 128, 4])]
    assert [describe(value) for value in model.graph.output] == [
        ("score", kind.FLOAT, ["batch"]),
        ("anomaly_map", kind.FLOAT, ["batch", 16, 32]),
    ]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_frame_scores_the_same_in_any_batch(graph: bytes, samples: list[Sample], batch: int) -> None:
    scorer = OnnxScorer(graph)
    pixels = read_pixels(samples[:batch], CONFIG.input)
    scores, maps = scorer(pixels)
    assert scores.shape == (batch,)
    assert maps.shape == (batch, 16, 32)
    assert scores.dtype == maps.dtype == np.float32
    for index in range(batch):
        alone, alone_map = scorer(pixels[index : index + 1])
        np.testing.assert_allclose(alone[0], scores[index], rtol=1e-5)
        np.testing.assert_allclose(alone_map[0], maps[index], rtol=1e-4, atol=1e-5)


def test_batch_normalisation_is_folded_and_no_shape_is_computed(graph: bytes) -> None:
    counts = operator_counts(graph)
    assert not counts.keys() & {"BatchNormalization", "Shape", "Expand", "Erf", "If", "Loop"}
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_nodes_are_named_by_their_modules(graph: bytes) -> None:
    names = [node.name for node in onnx.load_from_string(graph).graph.node]
    assert len(set(names)) == len(names)
    assert "backbone.layer1.0.conv1/Conv_0" in names
    assert "tail/TopK_0" in names


def test_same_weights_same_bytes_and_no_trace_of_the_machine(run: TrainedRun, exported: Exported) -> None:
    again = to_onnx(DeployableGraph(run.network, exported.bundle.manifest.calibration.map_threshold), run.config.input)
    assert again == exported.bundle.graph().read_bytes()
    model = onnx.load_from_string(again)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # any three letters are somewhere among so many random bytes
    without_weights = model.SerializeToString()
    assert b".py" not in without_weights
    assert b"torch" not in without_weights
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_grey_frames(samples: list[Sample]) -> None:
    config = Config.model_validate({**CONFIG.model_dump(), "input": {"height": 64, "width": 64, "color": "mono"}})
    pixels = read_pixels(samples[:3], config.input)
    network = sane_network(config, pixels)
    scorer = OnnxScorer(to_onnx(DeployableGraph(network, MAP_THRESHOLD), config.input))
    expected, found = TorchScorer(network, MAP_THRESHOLD)(pixels), scorer(pixels)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-4)


def test_shapes_computed_at_run_time_are_refused() -> None:
    class Sized(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            anomaly_map = images.float().mean(dim=3) * images.shape[0]
            return anomaly_map.flatten(1).amax(1), anomaly_map

    with pytest.raises(OnnxExportError, match="at run time"):
        to_onnx(Sized().eval(), CONFIG.input)


def test_float64_is_refused() -> None:
    class Double(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            anomaly_map = images.double().mean(dim=3)
            return anomaly_map.flatten(1).amax(1).float(), anomaly_map.float()

    with pytest.raises(OnnxExportError, match="float64"):
        to_onnx(Double().eval(), CONFIG.input)


@pytest.mark.parametrize("count", [1, 7, 12, 64, 8_000])
def test_the_least_is_found_in_blocks_as_in_one_piece(count: int) -> None:
    rows = torch.randn(50, count, generator=torch.Generator().manual_seed(count)).mul(3).round()  # with many ties
    assert torch.equal(_least(rows), torch.from_numpy(rows.numpy().argmin(axis=1)))
