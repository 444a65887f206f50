"""What the network costs: parameters and multiply-accumulates (MACs) by part, counted, beside the budget.

Counted are the multiplications of convolutions, linear layers and attention in one forward pass of one frame, 1 MAC
being 2 floating-point operations (FLOP); element-wise arithmetic and resizing are left out, as is usual.
"""

from typing import Final

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from atsnet.config import Config
from atsnet.network.atsnet import AtsNet
from atsnet.network.backbone import SCALE_STRIDES
from atsnet.network.memory import PrototypeMemory

MAX_PARAMETERS: Final = 4_840_000
"""The paper's 19.36 MB in float32."""
MAX_MACS: Final = 3_800_000_000
"""For one frame of `BUDGET_SIDE` squared."""
BUDGET_SIDE: Final = 256

_FLOP_PER_MAC: Final = 2


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartSummary(_Frozen):
    """One part of the network."""

    name: str
    parameters: int
    """Learned numbers; the memory's prototypes and projection are among them, though no gradient reaches them."""
    statistics: int
    """Stored numbers that are not learned by gradient: moments, permutations, quantiles."""
    macs: int
    """For one frame of the summary's size."""


class NetworkSummary(_Frozen):
    """The whole network, at a frame size of `height` x `width` and batch 1."""

    height: int
    width: int
    parts: tuple[PartSummary, ...]

    @property
    def parameters(self) -> int:
        """Learned numbers of all parts."""
        return sum(part.parameters for part in self.parts)

    @property
    def parameter_bytes(self) -> int:
        """Size of the learned numbers in float32."""
        return 4 * self.parameters

    @property
    def macs(self) -> int:
        """Of all parts, for one frame of this size."""
        return sum(part.macs for part in self.parts)

    @property
    def macs_at_budget_size(self) -> int:
        """For one frame of 256x256; every counted operation is proportional to the number of pixels."""
        return round(self.macs * BUDGET_SIDE**2 / (self.height * self.width))

    @property
    def within_budget(self) -> bool:
        """Whether neither parameters nor MACs are more than allowed."""
        return self.parameters <= MAX_PARAMETERS and self.macs_at_budget_size <= MAX_MACS


def summarise(config: Config) -> NetworkSummary:
    """Count the network of a configuration at its own frame size."""
    geometry = config.input
    # Only the network's shape matters here: the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=()):
        network = AtsNet(config.network, geometry)
    frames = torch.zeros(1, *geometry.frame_shape, dtype=torch.uint8)
    counter = FlopCounterMode(display=False)
    # The counter knows the matrix products that attention is made of, not every fused kernel of it.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(frames)
    by_module = counter.get_flop_counts()
    modules = {"backbone": network.backbone, "EMA norms": network.norms}
    modules |= {
        f"coupling 1/{stride}": coupling for stride, coupling in zip(SCALE_STRIDES, network.couplings, strict=True)
    }
    modules |= {"memory": network.memory} if network.memory else {}
    modules |= {"student": network.student}
    modules |= {"evidence head": network.evidence_head} if network.evidence_head else {}
    modules |= {"anomaly map": network.anomaly_map}
    names = {module: name for name, module in network.named_modules()}
    return NetworkSummary(
        height=geometry.height,
        width=geometry.width,
        parts=tuple(
            PartSummary(
                name=label,
                parameters=_learned(module),
                statistics=_stored(module) - _learned(module),
                macs=sum(by_module.get(f"AtsNet.{names[module]}", {}).values()) // _FLOP_PER_MAC,
            )
            for label, module in modules.items()
        ),
    )


def _learned(module: nn.Module) -> int:
    if isinstance(module, PrototypeMemory):
        return module.prototypes.numel() + module.projection.numel() + module.mean.numel()
    return sum(parameter.numel() for parameter in module.parameters())


def _stored(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values())
