import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atsnet.network.backbone import SCALE_CHANNELS, SCALE_STRIDES, BackboneKeyError, BasicBlock, ResNet18Trunk


def torchvision_shapes() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of torchvision's resnet18 up to layer3, by its naming scheme."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    before = 64
    for layer, channels in ((1, 64), (2, 128), (3, 256)):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (channels, before, 3, 3)
            norm(f"{name}.bn1", channels)
            shapes[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            norm(f"{name}.bn2", channels)
            if layer > 1 and block == 0:
                shapes[f"{name}.downsample.0.weight"] = (channels, before, 1, 1)
                norm(f"{name}.downsample.1", channels)
            before = channels
    return shapes


def random_state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for key, shape in torchvision_shapes().items()
    }


def test_state_dict_has_torchvisions_keys_and_shapes_and_no_constants() -> None:
    assert {key: tuple(value.shape) for key, value in ResNet18Trunk().state_dict().items()} == torchvision_shapes()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96)])
def test_features_have_the_announced_channels_and_strides(height: int, width: int) -> None:
    with torch.no_grad():
        features = ResNet18Trunk().eval()(torch.rand(2, 3, height, width))
    assert [tuple(x.shape) for x in features] == [
        (2, channels, height // stride, width // stride)
        for channels, stride in zip(SCALE_CHANNELS, SCALE_STRIDES, strict=True)
    ]


def test_images_are_normalised_as_the_published_weights_expect() -> None:
    """An image of ImageNet's mean colour is zero after normalisation, so only the norms' biases are left."""
    trunk = ResNet18Trunk().eval()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    seen: list[Tensor] = []
    trunk.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trunk(mean.expand(1, 3, 64, 64))
    trunk(mean + torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1).expand(1, 3, 64, 64))
    assert torch.allclose(seen[0], torch.zeros(1, 3, 64, 64), atol=1e-6)
    assert torch.allclose(seen[1], torch.ones(1, 3, 64, 64), atol=1e-6)


def test_residual_block_adds_its_input_and_rectifies() -> None:
    block = BasicBlock(2, 2, 1).eval()
    assert block.downsample is None
    with torch.no_grad():
        torch.nn.init.dirac_(block.conv1.weight)
        torch.nn.init.dirac_(block.conv2.weight)
        block.bn2.bias.copy_(torch.tensor([0.5, -3.0]))
        x = torch.randn(1, 2, 4, 4)
        scale = (1 + block.bn1.eps) ** -0.5
        bias = torch.tensor([0.5, -3.0]).view(1, 2, 1, 1)
        expected = F.relu(F.relu(x * scale) * scale + bias + x)
        assert torch.allclose(block(x), expected, atol=1e-6)


def test_strided_block_projects_its_shortcut() -> None:
    block = BasicBlock(1, 2, 2).eval()
    with torch.no_grad():
        block.conv2.weight.zero_()
        assert isinstance(block.downsample, torch.nn.Sequential)
        block.downsample[0].weight.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1))
        x = torch.arange(16.0).view(1, 1, 4, 4)
        y = block(x)
    scale = (1 + block.bn1.eps) ** -0.5
    assert torch.allclose(y[0, 0], 2 * scale * x[0, 0, ::2, ::2])
    assert torch.equal(y[0, 1], torch.zeros(2, 2))


def test_load_trunk_takes_a_whole_resnet18_and_leaves_the_rest_of_it() -> None:
    state = random_state()
    extra = {"layer4.0.conv1.weight": torch.zeros(512, 256, 3, 3), "fc.weight": torch.zeros(1000, 512)}
    trunk = ResNet18Trunk()
    trunk.load_trunk({**state, **extra})
    loaded = trunk.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_load_trunk_does_not_need_the_step_counters() -> None:
    state = {key: value for key, value in random_state().items() if not key.endswith("num_batches_tracked")}
    trunk = ResNet18Trunk()
    trunk.load_trunk(state)
    assert all(torch.equal(trunk.state_dict()[key], value) for key, value in state.items())


def test_load_trunk_names_the_first_missing_key_and_changes_nothing() -> None:
    state = random_state()
    del state["layer3.1.conv2.weight"], state["layer2.0.bn1.bias"]
    trunk = ResNet18Trunk()
    before = trunk.conv1.weight.clone()
    with pytest.raises(BackboneKeyError, match=r"2 keys are missing, the first is 'layer2\.0\.bn1\.bias'"):
        trunk.load_trunk(state)
    assert torch.equal(trunk.conv1.weight, before)


def test_load_trunk_names_a_key_of_another_shape() -> None:
    state = {**random_state(), "conv1.weight": torch.zeros(64, 1, 7, 7)}
    with pytest.raises(BackboneKeyError, match=r"'conv1.weight' has shape \(64, 1, 7, 7\), not \(64, 3, 7, 7\)"):
        ResNet18Trunk().load_trunk(state)
