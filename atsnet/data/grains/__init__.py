"""Procedural pictures of TEC grains with known defects, to try the detector on without any outside data."""

from atsnet.data.grains.defects import DEFECTS
from atsnet.data.grains.part import HOLDERS, Holder
from atsnet.data.grains.render import CONTRAST_FLOOR, GENERATOR_VERSION, Grain, render_grain
from atsnet.data.grains.write import SetCounts, write_grain_set

__all__ = [
    "CONTRAST_FLOOR",
    "DEFECTS",
    "GENERATOR_VERSION",
    "HOLDERS",
    "Grain",
    "Holder",
    "SetCounts",
    "render_grain",
    "write_grain_set",
]
