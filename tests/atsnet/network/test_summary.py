from typing import Any

import pytest
import torch

from atsnet.config import Config
from atsnet.network.atsnet import AtsNet
from atsnet.network.summary import MAX_MACS, MAX_PARAMETERS, NetworkSummary, summarise


def config(side: int = 64, **network: Any) -> Config:
    return Config.model_validate(
        {"input": {"height": side, "width": side}, "network": {"window": 4, "grid": 4, **network}}
    )


def macs_of(summary: NetworkSummary, name: str) -> int:
    return next(part.macs for part in summary.parts if part.name == name)


@pytest.fixture(scope="module")
def default() -> NetworkSummary:
    return summarise(Config())


def test_default_network_keeps_the_budget(default: NetworkSummary) -> None:
    assert default.parameters <= MAX_PARAMETERS == 4_840_000
    assert default.macs == default.macs_at_budget_size <= MAX_MACS == 3_800_000_000
    assert default.within_budget


def test_backbone_costs_what_is_published_of_resnet18_up_to_layer3(default: NetworkSummary) -> None:
    backbone = default.parts[0]
    assert (backbone.name, backbone.parameters) == ("backbone", 2_782_784)
    assert backbone.macs == 1_831_862_272


def test_every_parameter_is_in_one_part(default: NetworkSummary) -> None:
    network = AtsNet(Config().network, Config().input)
    by_gradient = sum(parameter.numel() for parameter in network.parameters())
    remembered = 8_000 * 96 + 96 * 384 + 384  # prototypes, projection and mean
    assert default.parameters == by_gradient + remembered
    assert default.parameter_bytes == 4 * default.parameters


def test_coupling_is_two_products_at_every_position() -> None:
    summary = summarise(config(64, coupling_kernel=1))
    positions, channels, hidden = 16 * 16, 64, 64
    assert macs_of(summary, "coupling 1/4") == positions * (channels // 2 * hidden + hidden * channels)


def test_attention_is_counted() -> None:
    """A grid of 4x4 instead of 2x2 gives every position 12 more keys, for half of the channels, twice."""
    coarse, fine = (macs_of(summarise(config(64, grid=grid, student_width=64)), "student") for grid in (2, 4))
    positions_16, positions_8 = 4 * 4, 8 * 8
    assert fine - coarse == 12 * 2 * (positions_16 * 32 + positions_8 * 16)


def test_a_memory_costs_its_projection_and_a_product_with_every_prototype() -> None:
    summary = summarise(config(64, memory_size=100, memory_width=16))
    assert macs_of(summary, "memory") == 8 * 8 * (384 * 16 + 16 * 100)
    memory = next(part for part in summary.parts if part.name == "memory")
    assert (memory.parameters, memory.statistics) == (100 * 16 + 16 * 384 + 384, 100)


def test_what_is_switched_off_is_not_counted() -> None:
    whole = summarise(config(64))
    without = summarise(config(64, memory_size=0, student_sees="features", coupling=False, context=False))
    assert "memory" not in {part.name for part in without.parts}
    assert macs_of(without, "coupling 1/4") == 0
    assert macs_of(without, "student") < macs_of(whole, "student")


def test_macs_at_another_size_are_proportional_to_its_pixels() -> None:
    small, large = summarise(config(128)), summarise(config(256))
    assert large.macs == pytest.approx(4 * small.macs, rel=1e-4)  # but for the borders of the map's smoothing
    assert small.macs_at_budget_size == 4 * small.macs


@pytest.mark.parametrize(
    ("network", "parameters_fit"),
    [
        ({"student_width": 512}, False),
        ({"coupling_kernel": 3, "coupling_hidden": (1024, 128, 256), "memory_size": 1_000}, True),
    ],
)
def test_too_large_a_network_is_over_budget(network: dict[str, Any], parameters_fit: bool) -> None:
    summary = summarise(config(256, **network))
    assert not summary.within_budget
    assert (summary.parameters <= MAX_PARAMETERS) is parameters_fit
    assert summary.macs > MAX_MACS


def test_counting_draws_none_of_the_callers_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    summarise(config(64))
    assert torch.equal(torch.rand(1), expected)
