import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atsnet.network.backbone import ResNet18Trunk
from atsnet.pretraining.passing_on import SIXTEENTH_GAIN, pass_on

BINOMIAL = torch.tensor([1.0, 2.0, 1.0])[:, None] * torch.tensor([1.0, 2.0, 1.0]) / 16


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def trunk() -> ResNet18Trunk:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = ResNet18Trunk()
    with torch.no_grad():
        trunk(images(4, 1))  # running statistics that are not those of the start
    return trunk


def averaged(features: Tensor) -> Tensor:
    channels = features.shape[1]
    return F.conv2d(features, BINOMIAL.expand(channels, 1, 3, 3), padding=1, groups=channels)


def handed_on(features: Tensor, gain: float) -> Tensor:
    """Every second position of the averages, and the averages of what stands out from them."""
    average = averaged(features)
    outstanding = F.relu(features - average)[:, :, ::2, ::2]
    return gain * torch.cat([average[:, :, ::2, ::2], averaged(outstanding)], dim=1)


@torch.inference_mode()
def test_deeper_scales_are_averages_of_the_first_on_images_of_any_statistics(trunk: ResNet18Trunk) -> None:
    before = trunk.eval()(images(2, 2))
    pass_on(trunk, images(4, 1))
    for other in (images(2, 2), 0.2 * images(2, 3), torch.zeros(1, 3, 64, 64)):
        quarter, eighth, sixteenth = trunk(other)
        assert torch.allclose(eighth, handed_on(quarter, 1.0), atol=1e-4)
        assert torch.allclose(sixteenth, handed_on(eighth, SIXTEENTH_GAIN), atol=1e-4)
    after = trunk(images(2, 2))
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_training_goes_on_where_it_stopped(trunk: ResNet18Trunk) -> None:
    """On the images whose statistics it has, training mode hardly changes what is handed on, and all can learn."""
    batch = images(8, 1)
    pass_on(trunk, batch)
    with torch.no_grad():
        first = trunk(batch)[0]
        expected = trunk.layer3(trunk.layer2(first))
    trunk.layer2.train()
    trunk.layer3.train()
    found = trunk.layer3(trunk.layer2(first))
    assert torch.allclose(found, expected, rtol=0.02, atol=0.02 * float(expected.detach().std()))
    found.square().mean().backward()
    gradients = {name: float(p.grad.abs().max()) for name, p in trunk.named_parameters() if p.grad is not None}
    for stage in ("layer2", "layer3"):
        for name in ("0.conv1", "0.conv2", "0.downsample.1", "1.bn2"):
            assert gradients[f"{stage}.{name}.weight"] > 0
