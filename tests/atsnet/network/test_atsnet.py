from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atsnet.config import NetworkConfig
from atsnet.imaging import InputGeometry
from atsnet.network.atsnet import MAP_STRIDE, AtsNet
from atsnet.network.coupling import AffineCoupling

SMALL = NetworkConfig(
    student_width=32,
    heads=4,
    window=4,
    grid=4,
    coupling_hidden=(8, 8, 8),
    memory_size=40,
    memory_width=16,
    evidence_width=8,
    score_fraction=0.02,
)
PARAMETER_BUDGET = 4_840_000
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "features seen, memory kept": {"student_sees": "features"},
    "no memory": {"student_sees": "features", "memory_size": 0},
    "no normalisation": {"ema_norm": False},
    "no coupling": {"coupling": False},
    "no attention": {"context": False},
    "no evidence head": {"evidence_width": 0},
    "nothing": {
        "student_sees": "features",
        "memory_size": 0,
        "ema_norm": False,
        "coupling": False,
        "context": False,
        "evidence_width": 0,
    },
}


def make_network(color: str = "rgb", *, width: int = 64, **changes: Any) -> AtsNet:
    """Random weights whose teacher is not the identity, with statistics and prototypes of random frames."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = NetworkConfig.model_validate(SMALL.model_dump() | changes)
        network = AtsNet(config, InputGeometry(height=64, width=width, color=color))
        for coupling in network.couplings:
            assert isinstance(coupling, AffineCoupling)
            torch.nn.init.normal_(coupling.subnet[-1].weight, 0, 0.2)
    network.requires_grad_(False)
    images, _ = network.unpack(make_frames(4, color, width=width))
    raw = network.backbone(images)
    network.update_norms(raw)
    if network.memory:
        network.memory.fit(network.memory.describe(raw).permute(0, 2, 3, 1).flatten(0, 2), 0)
    return network


def make_frames(count: int, color: str = "rgb", *, width: int = 64, seed: int = 0) -> Tensor:
    channels = 4 if color == "rgb" else 2
    frames = np.random.default_rng(seed).integers(0, 256, (count, 64, width, channels), np.uint8)
    frames[..., -1] = 255
    return torch.from_numpy(frames)


@pytest.mark.parametrize("color", ["mono", "rgb"])
@pytest.mark.parametrize("width", [64, 128])
def test_frames_in_scores_and_maps_out(color: str, width: int) -> None:
    score, anomaly_map = make_network(color, width=width)(make_frames(3, color, width=width))
    assert score.shape == (3,)
    assert anomaly_map.shape == (3, 64 // MAP_STRIDE, width // MAP_STRIDE)
    assert score.dtype == anomaly_map.dtype == torch.float32
    assert torch.isfinite(anomaly_map).all()
    assert (score > 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_scores_frames(variant: str) -> None:
    network, frames = make_network(**VARIANTS[variant]), make_frames(3, seed=1)
    score, anomaly_map = network(frames)
    assert anomaly_map.shape == (3, 16, 16)
    assert torch.isfinite(anomaly_map).all()
    assert (score > 0).all()
    assert score.std() > 0


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "all"])
def test_every_switch_changes_the_answer(variant: str) -> None:
    frames = make_frames(1, seed=1)
    assert not torch.allclose(make_network(**VARIANTS[variant])(frames)[1], make_network()(frames)[1], rtol=1e-3)


def test_without_normalisation_and_coupling_the_teachers_word_is_the_features() -> None:
    network = make_network(ema_norm=False, coupling=False)
    raw = network.backbone(network.unpack(make_frames(2))[0])
    standardised = network.standardise(raw)
    assert all(torch.equal(a, b) for a, b in zip(standardised, raw, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(network.latents(standardised), raw, strict=True))
    usual = make_network()
    standardised = usual.standardise(raw)
    assert float(standardised[1].mean().abs()) < 0.05
    assert not torch.allclose(usual.latents(standardised)[1], standardised[1])


def test_the_student_sees_the_part_through_its_prototypes_alone() -> None:
    """With the same prototypes recalled, what else lies there makes no difference to what it predicts."""
    network = make_network()
    raw = [network.backbone(network.unpack(make_frames(2, seed=seed))[0]) for seed in (1, 2)]
    first, second = (network.standardise(x) for x in raw)
    assert not torch.allclose(first[0], second[0])
    recollection = network.memory(raw[0])
    for a, b in zip(network.predict(first, recollection), network.predict(second, recollection), strict=True):
        assert torch.equal(a, b)
    other = make_network(student_sees="features")
    predictions = zip(other.predict(first, recollection), other.predict(second, recollection), strict=True)
    assert not any(torch.allclose(a, b) for a, b in predictions)


def test_a_change_that_leaves_the_nearest_prototypes_leaves_the_prediction() -> None:
    """From frames on: the teacher's word changes everywhere, the student's where another prototype is recalled."""
    network = make_network()
    raw = list(network.backbone(network.unpack(make_frames(1))[0]))
    changed = [raw[0] + 1, *raw[1:]]  # the memory does not look at the finest scale
    calm, loud = network.evidence(raw), network.evidence(changed)
    assert not torch.allclose(calm[0], loud[0])
    assert all(torch.equal(a, b) for a, b in zip(calm[1:4], loud[1:4], strict=True))
    assert not torch.allclose(calm[4], loud[4])  # the evidence head looks at all scales


def test_evidence_is_that_of_all_sources() -> None:
    network = make_network(width=128)
    raw = network.backbone(network.unpack(make_frames(2, width=128))[0])
    found = network.evidence(raw)
    shapes = [(2, 16, 32), (2, 8, 16), (2, 4, 8), (2, 8, 16), (2, 16, 32)]
    assert [source.shape for source in found] == shapes
    features, recollection = network.standardise(raw), network.memory(raw)
    residuals = network.anomaly_map.residual_distances(
        network.latents(features), network.predict(features, recollection)
    )
    assert torch.allclose(found[1].exp(), residuals[1], rtol=1e-4)
    assert torch.allclose(found[3].exp(), recollection.distance.clamp(min=1e-3), rtol=1e-4)
    assert torch.equal(found[4], network.judge(features, recollection))
    assert make_network(memory_size=0, student_sees="features").evidence(raw)[3] is None
    assert make_network(evidence_width=0).evidence(raw)[4] is None


def test_a_grey_picture_scores_the_same_in_mono_and_in_rgb() -> None:
    mono = make_frames(2, "mono")
    rgb = torch.cat([mono[..., :1].expand(-1, -1, -1, 3), mono[..., 1:]], dim=-1)
    network, other = make_network("mono"), make_network("rgb")
    other.load_state_dict(network.state_dict())
    assert torch.allclose(network(mono)[1], other(rgb)[1], atol=1e-5)


def test_a_batch_scores_as_its_frames_one_by_one() -> None:
    network, frames = make_network(), make_frames(4)
    scores, maps = network(frames)
    assert scores.std() > 0
    for index in range(4):
        score, anomaly_map = network(frames[index : index + 1])
        assert torch.allclose(score[0], scores[index], rtol=1e-4, atol=1e-5)
        assert torch.allclose(anomaly_map[0], maps[index], rtol=1e-3, atol=1e-4)


def test_starts_in_eval_mode_and_training_mode_reaches_what_learns_only() -> None:
    network = make_network()
    assert not network.training
    assert not network.student.training
    network.train()
    assert network.student.training
    assert network.evidence_head.training
    assert not any(module.training for module in network.backbone.modules())
    assert not any(module.training for module in network.norms.modules())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(make_frames(2))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network.eval().student.training


def test_unpack_splits_scaled_images_from_the_mask() -> None:
    frames = torch.zeros(1, 64, 64, 4, dtype=torch.uint8)
    frames[0, 10, 20] = torch.tensor([255, 51, 0, 0], dtype=torch.uint8)
    frames[0, 0:4, 0:4, 3] = 255
    frames[0, 4:6, 0:4, 3] = 255  # half of the next cell
    frames[0, 8:9, 0:4, 3] = 255  # a quarter of the one after it
    images, inspect = make_network().unpack(frames)
    assert images.shape == (1, 3, 64, 64)
    assert images[0, :, 10, 20].tolist() == pytest.approx([1.0, 0.2, 0.0])
    assert inspect.shape == (1, 16, 16)
    assert inspect[0, :4, 0].tolist() == [1, 1, 0, 0]
    assert inspect.sum() == 2


def test_padding_is_zero_in_the_map() -> None:
    network, frames = make_network(), make_frames(2)
    frames[:, :24, :, -1] = 0
    _, anomaly_map = network(frames)
    assert torch.equal(anomaly_map[:, :6], torch.zeros(2, 6, 16))
    assert (anomaly_map[:, 6:] > 0).any()


def test_a_frame_without_anything_to_inspect_scores_zero() -> None:
    frames = make_frames(1)
    frames[..., -1] = 0
    score, _ = make_network()(frames)
    assert score.item() == 0


def test_the_backbone_is_frozen_from_the_start() -> None:
    network = AtsNet(SMALL, InputGeometry(height=64, width=64))
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())
    assert all(parameter.requires_grad for parameter in network.student.parameters())


def test_default_network_keeps_the_parameter_budget() -> None:
    network = AtsNet(NetworkConfig(), InputGeometry())
    assert sum(parameter.numel() for parameter in network.parameters()) <= PARAMETER_BUDGET


def test_state_dict_round_trip_gives_the_same_scores() -> None:
    network, frames = make_network(), make_frames(2)
    other = AtsNet(SMALL, network.geometry)
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(frames)[0], other(frames)[0])
