"""The deployable graph: from frames to scores and calibrated maps, all of it inside, in the form that runs fastest.

It computes what `atsnet.network.atsnet.AtsNet` computes, with everything folded that training has frozen: batch
normalisation into the convolutions, the moving averages into one affine operation a scale, the gains of the
transformers' norms into the projections behind them, channel weights, scale quantiles and their mean into one 1x1
convolution a scale. The parity gate (`model_export.parity`) compares the two.
"""

import copy
import functools
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from atsnet.network.anomaly_map import SOURCES, AnomalyMap, border_depth, smooth_inspected
from atsnet.network.atsnet import MAP_STRIDE, AtsNet
from atsnet.network.backbone import SCALE_CHANNELS, SCALE_STRIDES, BasicBlock, ResNet18Trunk
from atsnet.network.context import ChannelNorm, DualScaleContext
from atsnet.network.ema_norm import EmaNorm
from atsnet.network.memory import MEMORY_STRIDE, Recollection

SEARCH_MODULE: Final = "search"
"""Submodule that finds the nearest prototype of each position."""
TAIL_MODULE: Final = "tail"
"""Submodule whose arithmetic has to stay float32 whatever the precision of the rest."""


MEMORY, HEAD = SOURCES.index("memory"), SOURCES.index("evidence")
SOURCE_STRIDES: Final = (*SCALE_STRIDES, MEMORY_STRIDE, MAP_STRIDE)
"""Frame pixels a side of one position of each source of evidence."""


class DeployableGraph(nn.Module):
    """AtsNet and its map threshold as one function of frames, without anything that only training needs."""

    def __init__(self, network: AtsNet, map_threshold: float) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval().requires_grad_(False)
        self.mono = network.geometry.color == "mono"
        self.pixels = _pixel_normalisation(network.backbone)
        self.backbone = _FoldedTrunk(network.backbone)
        self.norms = nn.ModuleList(
            _fold_ema(norm) if network.config.ema_norm else nn.Identity()
            for norm in network.norms
            if isinstance(norm, EmaNorm)
        )
        self.couplings = network.couplings if network.config.coupling else None
        self.memory = network.memory
        self.search = _Search()
        self.student = network.student
        self.sees_prototypes = network.config.student_sees == "prototypes"
        self.evidence_head = network.evidence_head
        for module in list(self.student.modules()):
            if isinstance(module, DualScaleContext):
                _fold_channel_norms(module)
        self.tail = Tail(network.anomaly_map, map_threshold)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Inspect frames.

        Args:
            images: `uint8 [N, H, W, C]`, the image's channels and the inspect mask (see `atsnet.imaging`).

        Returns:
            Raw scores `float32 [N]` and maps `float32 [N, H/4, W/4]` in units of the map threshold.
        """
        planes = images.permute(0, 3, 1, 2)  # bytes are cheaper to transpose than floats
        x = planes[:, :-1].float()
        x = self.pixels(torch.cat([x, x, x], dim=1) if self.mono else x)
        raw = self.backbone(x)
        features = [norm(scale) for norm, scale in zip(self.norms, raw, strict=True)]
        teacher = features
        if self.couplings is not None:
            teacher = [coupling(scale)[0] for coupling, scale in zip(self.couplings, features, strict=True)]
        recollection = self._recollect(raw) if self.memory is not None else None
        student = self.student(recollection.prototypes if recollection and self.sees_prototypes else features)
        distance, missed = (recollection.distance, recollection.missed) if recollection else (None, None)
        logits = self.evidence_head(features, missed) if self.evidence_head is not None else None
        score, anomaly_map = self.tail(teacher, student, distance, logits, planes[:, -1:])
        return score, anomaly_map

    def _recollect(self, raw: Sequence[Tensor]) -> Recollection:
        """The memory's search in one piece: its own cuts the positions up, which a dynamic batch does not allow."""
        assert self.memory is not None
        vectors = self.memory.project(self.memory.describe(raw))
        nearest = self.search(vectors.flatten(0, 2), self.memory.prototypes, self.memory.half_norms)
        return self.memory.recall(vectors, nearest.view(vectors.shape[:-1]))


class _Search(nn.Module):
    """The nearest of all prototypes; a module, so that `model_export.quantization` finds its nodes by their name."""

    def forward(self, vectors: Tensor, prototypes: Tensor, half_norms: Tensor) -> Tensor:
        """From positions `[P, D]` and prototypes `[K, D]` to indices `int64 [P]`."""
        # Half the square of a prototype's length is a component more, against one of 1: a single product does it all.
        axes = torch.cat([-prototypes.T, half_norms.unsqueeze(0)])
        return _least(F.pad(vectors, (0, 1), value=1.0) @ axes)


def _least(rows: Tensor) -> Tensor:
    """Index of the least value of each row `[P, K]`, the first of equal ones, `int64 [P]`.

    In two steps, since ONNX Runtime finds the least *value* of many several times faster than its place on a CPU: the
    least of each block, then the place within the block that has it.
    """
    count = rows.shape[1]
    width = max(divisor for divisor in range(1, count + 1) if count % divisor == 0 and divisor**2 <= count)
    blocks = rows.reshape(-1, count // width, width)
    block = blocks.amin(dim=2).argmin(dim=1)
    everywhere = block.view(-1, 1, 1) + torch.zeros(1, 1, width, dtype=torch.int64, device=rows.device)
    least: Tensor = block * width + blocks.gather(1, everywhere).squeeze(1).argmin(dim=1)
    return least


class Tail(nn.Module):
    """`AnomalyMap` with its constants folded.

    One 1x1 convolution a scale weighs and sums its channels. Two more turn the depths below the part's border into
    every source's gain and offset.
    """

    kernel: Tensor
    threshold: Tensor

    def __init__(self, source: AnomalyMap, map_threshold: float) -> None:
        super().__init__()
        if not map_threshold > 0:
            raise ValueError(f"the map threshold must be positive, not {map_threshold}")
        self.score_fraction, self.rings = source.score_fraction, source.rings
        self.used = [index for index, share in enumerate(source.shares) if share > 0]
        self.weigh = nn.ModuleDict()
        for index in self.used:
            if index < len(SCALE_CHANNELS):
                weight = source.channel_weight(index).double()
                weigh = nn.Conv2d(len(weight), 1, 1, bias=False)
                with torch.no_grad():
                    weigh.weight.copy_((weight / len(weight)).view(1, -1, 1, 1))
                self.weigh[str(index)] = weigh.requires_grad_(False)
        shares = torch.tensor([source.shares[index] for index in self.used], dtype=torch.float64).view(-1, 1)
        gains = source.gains[self.used].double() * shares
        self.gain = _depth_to_value(gains)
        self.offset = _depth_to_value(gains * source.offsets[self.used].double())
        self.register_buffer("kernel", source.kernel.clone())
        self.register_buffer("threshold", torch.tensor(map_threshold, dtype=torch.float32))

    def forward(
        self,
        teacher: list[Tensor],
        student: tuple[Tensor, ...],
        remoteness: Tensor | None,
        logits: Tensor | None,
        inspect: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Fuse all sources.

        Args:
            teacher: Latents `[N, C, h, w]` of each scale; the first scale has the map's size.
            student: Predicted latents of the same shapes.
            remoteness: How far each position is from its nearest prototype, `[N, h, w]` at 1/8; None for no memory.
            logits: Of the evidence head, `[N, H/4, W/4]`; None for no head.
            inspect: `uint8 [N, 1, H, W]`, the frames' mask.

        Returns:
            Raw scores `float32 [N]` and calibrated maps `float32 [N, H/4, W/4]`.
        """
        inspected = (F.avg_pool2d(inspect.float(), MAP_STRIDE) >= 127.5).float()
        depth = border_depth(inspected.squeeze(1), self.rings)
        gains, offsets = self.gain(depth), self.offset(depth)
        shares: list[Tensor] = []
        distances: dict[int, Tensor] = {}
        for index, (t, s) in enumerate(zip(teacher, student, strict=True)):
            if index in self.used:
                residual = t.float() - s.float()
                distances[index] = self.weigh[str(index)](residual * residual)  # [N, 1, h, w]
        if remoteness is not None:
            distances[MEMORY] = remoteness.unsqueeze(1)
        evidence = {index: AnomalyMap.logarithm(distance) for index, distance in distances.items()}
        if logits is not None:
            evidence[HEAD] = logits.float().unsqueeze(1)
        for position, index in enumerate(self.used):
            source, stride = evidence[index], SOURCE_STRIDES[index] // MAP_STRIDE
            if stride > 1:
                # A factor, not a size: the size of a dynamic batch's tensor would be computed at run time.
                source = F.interpolate(source, scale_factor=float(stride), mode="bilinear", align_corners=False)
            gain, offset = gains[:, position : position + 1], offsets[:, position : position + 1]
            shares.append(F.relu(gain * source - offset))
        fused = functools.reduce(torch.add, shares)
        raw_map = smooth_inspected(fused, inspected, self.kernel).squeeze(1)
        flat = raw_map.flatten(1)
        count = max(1, round(self.score_fraction * flat.shape[1]))
        return flat.topk(count, dim=1).values.mean(dim=1), raw_map / self.threshold


def _depth_to_value(values: Tensor) -> nn.Conv2d:
    """Convolution from the channels of `border_depth` to a value for each depth; `values` is `[outputs, rings]`."""
    steps = torch.cat([values[:, :1], values[:, 1:] - values[:, :-1]], dim=1)
    convolution = nn.Conv2d(values.shape[1], values.shape[0], 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(steps[:, :, None, None])
    return convolution.requires_grad_(False)


class _ChannelAffine(nn.Module):
    """Per-channel `x * scale + shift` of `[N, C, H, W]`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.reshape(1, -1, 1, 1).float())
        self.register_buffer("shift", shift.reshape(1, -1, 1, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _pixel_normalisation(backbone: ResNet18Trunk) -> _ChannelAffine:
    """From bytes 0..255 to what the stem's convolution takes.

    It is not folded into the convolution: the zeros that the convolution pads with stand for the mean colour.
    """
    mean, std = backbone.mean.double(), backbone.std.double()
    return _ChannelAffine(1 / (255 * std), -mean / std)


def _fold_ema(norm: EmaNorm) -> _ChannelAffine:
    mean, deviation = (statistic.double() for statistic in norm.statistics())
    return _ChannelAffine(1 / deviation, -mean / deviation)


class _FoldedTrunk(nn.Module):
    """`ResNet18Trunk` behind its pixel normalisation, with batch normalisation folded into the convolutions."""

    def __init__(self, trunk: ResNet18Trunk) -> None:
        super().__init__()
        self.conv1 = fuse_conv_bn_eval(trunk.conv1, trunk.bn1)
        for module in trunk.modules():
            if isinstance(module, BasicBlock):
                _fold_block(module)
        self.layer1, self.layer2, self.layer3 = trunk.layer1, trunk.layer2, trunk.layer3

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quarter = self.layer1(F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1))
        eighth = self.layer2(quarter)
        return quarter, eighth, self.layer3(eighth)


def _fold_block(block: BasicBlock) -> None:
    block.conv1, block.conv2 = fuse_conv_bn_eval(block.conv1, block.bn1), fuse_conv_bn_eval(block.conv2, block.bn2)
    block.bn1 = block.bn2 = nn.Identity()  # type: ignore[assignment]
    if isinstance(block.downsample, nn.Sequential):
        conv, norm = block.downsample
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        block.downsample = fuse_conv_bn_eval(conv, norm)


class _Standardise(nn.Module):
    """`ChannelNorm` without gain and bias; its means over channels are convolutions, which runtimes do faster."""

    average: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("average", torch.full((1, channels, 1, 1), 1 / channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - F.conv2d(x, self.average)
        return centred / torch.sqrt(F.conv2d(centred * centred, self.average) + self.eps)


def _fold_channel_norms(context: DualScaleContext) -> None:
    """Move the gains and biases of both norms into the 1x1 convolutions that follow them."""
    first = context.mlp[0]
    assert isinstance(first, nn.Conv2d)
    folded = [(context.mlp_norm, first)] + ([(context.attention_norm, context.qkv)] if context.attends else [])
    for norm, projection in folded:
        assert projection.bias is not None
        weight = projection.weight.double().flatten(1)  # [out, in]
        projection.bias.copy_(projection.bias.double() + weight @ norm.bias.double())
        projection.weight.copy_((weight * norm.weight.double()).view_as(projection.weight))
    if context.attends:
        context.attention_norm = _standardise(context.attention_norm)
    context.mlp_norm = _standardise(context.mlp_norm)


def _standardise(norm: ChannelNorm) -> ChannelNorm:
    return _Standardise(len(norm.weight), norm.eps)  # type: ignore[return-value]
