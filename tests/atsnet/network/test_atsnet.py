import numpy as np
import pytest
import torch
from torch import Tensor

from atsnet.config import NetworkConfig
from atsnet.imaging import InputGeometry
from atsnet.network.atsnet import MAP_STRIDE, AtsNet
from atsnet.network.coupling import AffineCoupling

SMALL = NetworkConfig(student_width=32, heads=4, window=4, grid=4, coupling_hidden=(8, 8, 8))
PARAMETER_BUDGET = 4_840_000


def make_network(color: str = "rgb", *, width: int = 64) -> AtsNet:
    """Random weights whose teacher is not the identity, with statistics of random frames."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AtsNet(SMALL, InputGeometry(height=64, width=width, color=color))
        for coupling in network.couplings:
            assert isinstance(coupling, AffineCoupling)
            torch.nn.init.normal_(coupling.subnet[-1].weight, 0, 0.2)
    network.requires_grad_(False)
    images, _ = network.unpack(make_frames(4, color, width=width))
    network.update_norms(network.backbone(images))
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


def test_starts_in_eval_mode_and_training_mode_reaches_the_student_only() -> None:
    network = make_network()
    assert not network.training
    assert not network.student.training
    network.train()
    assert network.student.training
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
