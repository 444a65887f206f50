import math

import pytest
import torch
from torch import Tensor

from atsnet.network.context import ChannelNorm, DualScaleContext

CHANNELS, HEADS, WINDOW, GRID = 16, 4, 4, 2


def random_block(seed: int = 0, *, position: bool = True) -> DualScaleContext:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        block = DualScaleContext(CHANNELS, HEADS, WINDOW, GRID)
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, 0, 0.3)
    if not position:  # the 3x3 position term reaches over the windows' edges by design
        torch.nn.init.zeros_(block.position.weight)
        torch.nn.init.zeros_(block.position.bias)
    return block.requires_grad_(False).eval()


def only(block: DualScaleContext, scale: str) -> DualScaleContext:
    """Cut the other scale's heads off the joining projection."""
    half = slice(CHANNELS // 2, None) if scale == "local" else slice(0, CHANNELS // 2)
    block.join.weight[:, half] = 0
    return block


def features(height: int = 8, width: int = 12) -> Tensor:
    return torch.randn(2, CHANNELS, height, width, generator=torch.Generator().manual_seed(1))


def naive_attention(block: DualScaleContext, normed: Tensor) -> Tensor:
    """Both scales' attention of one picture `[C, H, W]`, head by head and position by position."""
    channels, height, width = normed.shape
    qkv = torch.einsum("oc,chw->ohw", block.qkv.weight[:, :, 0, 0], normed) + block.qkv.bias.view(-1, 1, 1)
    q, k, v = qkv[:channels], qkv[channels : 2 * channels], qkv[2 * channels :]
    dim = channels // HEADS
    out = torch.zeros(channels, height, width)
    cell_h, cell_w = height // GRID, width // GRID
    for head in range(HEADS):
        part = slice(head * dim, (head + 1) * dim)
        for y in range(height):
            for x in range(width):
                keys, values = [], []
                if head < HEADS // 2:
                    top, left = y // WINDOW * WINDOW, x // WINDOW * WINDOW
                    for i in range(top, top + WINDOW):
                        for j in range(left, left + WINDOW):
                            keys.append(k[part, i, j])
                            values.append(v[part, i, j])
                else:
                    for i in range(GRID):
                        for j in range(GRID):
                            rows, columns = slice(i * cell_h, (i + 1) * cell_h), slice(j * cell_w, (j + 1) * cell_w)
                            keys.append(k[part, rows, columns].mean(dim=(1, 2)))
                            values.append(v[part, rows, columns].mean(dim=(1, 2)))
                weights = torch.softmax(torch.stack(keys) @ q[part, y, x] / math.sqrt(dim), dim=0)
                out[part, y, x] = weights @ torch.stack(values)
    return out


def test_block_equals_a_naive_reference() -> None:
    block, x = random_block(), features()
    with torch.no_grad():
        with_position = x + block.position(x)
        attended = torch.stack([naive_attention(block, picture) for picture in block.attention_norm(with_position)])
        joined = with_position + block.join(attended)
        expected = joined + block.mlp(block.mlp_norm(joined))
        assert torch.allclose(block(x), expected, atol=1e-4)


def test_shape_is_kept_for_other_sizes_too() -> None:
    block = random_block()
    for size in ((4, 4), (8, 8), (8, 12)):
        assert block(features(*size)).shape == (2, CHANNELS, *size)


def test_local_attention_stays_in_its_window() -> None:
    block, x = only(random_block(position=False), "local"), features()
    changed = x.clone()
    changed[:, 0, 0, 0] += 1  # in the top left window; all channels alike would be normalised away
    difference = (block(changed) - block(x)).abs().sum(dim=1)
    assert (difference[:, :WINDOW, :WINDOW] > 0).all()
    difference[:, :WINDOW, :WINDOW] = 0
    assert torch.equal(difference, torch.zeros_like(difference))


def test_global_attention_sees_the_far_corner() -> None:
    block, x = only(random_block(position=False), "global"), features()
    changed = x.clone()
    changed[:, 0, 0, 0] += 1
    difference = (block(changed) - block(x)).abs().sum(dim=1)
    assert (difference[:, -1, -1] > 1e-6).all()


def test_without_attention_only_the_neighbourhood_counts() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = DualScaleContext(CHANNELS, HEADS, WINDOW, GRID, attention=False).requires_grad_(False).eval()
    assert {name.split(".")[0] for name, _ in block.named_parameters()} == {"position", "mlp_norm", "mlp"}
    x = features()
    with_position = x + block.position(x)
    assert torch.equal(block(x), with_position + block.mlp(block.mlp_norm(with_position)))
    changed = x.clone()
    changed[:, 0, 4, 5] += 1
    difference = (block(changed) - block(x)).abs().sum(dim=1)
    assert (difference[:, 3:6, 4:7] > 0).all()
    difference[:, 3:6, 4:7] = 0
    assert torch.equal(difference, torch.zeros_like(difference))


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    block, x = random_block(), features()
    changed = x.clone()
    changed[1] += 1
    assert torch.allclose(block(changed)[0], block(x)[0], atol=1e-6)


def test_channel_norm_is_layer_normalisation_of_every_position() -> None:
    norm, x = ChannelNorm(CHANNELS), features()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    expected = torch.nn.functional.layer_norm(
        x.permute(0, 2, 3, 1), (CHANNELS,), norm.weight, norm.bias, norm.eps
    ).permute(0, 3, 1, 2)
    assert torch.allclose(norm(x), expected, atol=1e-5)


@pytest.mark.parametrize("heads", [3, 6, 32])
def test_heads_that_do_not_fit_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match=f"even and divide the {CHANNELS} channels, not {heads}"):
        DualScaleContext(CHANNELS, heads, WINDOW, GRID)
