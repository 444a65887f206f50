"""The dual-scale contextual transformer block: attention in local windows and to a global pooled grid, joined.

Half of the heads look at every position of their own window, the other half at the whole picture, averaged to a
coarse grid; one projection joins them. The local half keeps texture apart, the global half knows what part of the
grain it is looking at. Related: windows of Liu et al., "Swin Transformer" (ICCV 2021); pooled keys of Wang et al.,
"Pyramid Vision Transformer" (ICCV 2021).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of `[N, C, H, W]`, at every position by itself."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + self.eps)
        return scaled * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class DualScaleContext(nn.Module):
    """Transformer block (pre-norm, attention then feed-forward, both residual) with the two scales of attention."""

    def __init__(
        self, channels: int, heads: int, window: int, grid: int, *, attention: bool = True, expansion: int = 2
    ) -> None:
        """Without `attention` the block keeps its position convolution and feed-forward layers, for ablations."""
        super().__init__()
        if heads % 2 or channels % heads:
            raise ValueError(f"heads must be even and divide the {channels} channels, not {heads}")
        self.heads, self.window, self.grid = heads, window, grid
        # Depthwise convolution tells positions apart without tying the block to one input size.
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.attends = attention
        if attention:
            self.attention_norm = ChannelNorm(channels)
            self.qkv = nn.Conv2d(channels, 3 * channels, 1)
            self.join = nn.Conv2d(channels, channels, 1)
        self.mlp_norm = ChannelNorm(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, expansion * channels, 1), nn.GELU(), nn.Conv2d(expansion * channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape; H and W are multiples of the window and of the grid."""
        x = x + self.position(x)
        if self.attends:
            x = x + self.join(self._attended(self.attention_norm(x)))
        fed: Tensor = self.mlp(self.mlp_norm(x))
        return x + fed

    def _attended(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=1)
        (local_q, global_q), (local_k, global_k), (local_v, global_v) = (t.chunk(2, dim=1) for t in (q, k, v))
        return torch.cat([self._local(local_q, local_k, local_v), self._global(global_q, global_k, global_v)], dim=1)

    def _local(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention inside windows; `[N, C/2, H, W]` each."""
        channels, height, width = q.shape[1:]
        rows, columns = height // self.window, width // self.window
        heads, dim = self.heads // 2, channels // (self.heads // 2)

        def to_windows(t: Tensor) -> Tensor:  # [N, C, H, W] -> [N * rows * columns, heads, window^2, dim]
            t = t.reshape(-1, heads, dim, rows, self.window, columns, self.window)
            return t.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, heads, self.window**2, dim)

        attended = F.scaled_dot_product_attention(to_windows(q), to_windows(k), to_windows(v))
        attended = attended.reshape(-1, rows, columns, heads, self.window, self.window, dim)
        return attended.permute(0, 3, 6, 1, 4, 2, 5).reshape(-1, channels, height, width)

    def _global(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of every position to the pooled grid; `[N, C/2, H, W]` each."""
        channels, height, width = q.shape[1:]
        heads, dim = self.heads // 2, channels // (self.heads // 2)
        pool = (height // self.grid, width // self.grid)

        def to_tokens(t: Tensor) -> Tensor:  # [N, C, h, w] -> [N, heads, h * w, dim]
            return t.reshape(-1, heads, dim, t.shape[2] * t.shape[3]).transpose(2, 3)

        keys, values = to_tokens(F.avg_pool2d(k, pool)), to_tokens(F.avg_pool2d(v, pool))
        attended = F.scaled_dot_product_attention(to_tokens(q), keys, values)
        return attended.transpose(2, 3).reshape(-1, channels, height, width)
