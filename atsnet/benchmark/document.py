"""`results.json`: all that a benchmark found, and what it was made with."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from atsnet.benchmark.cell import CellResult
from atsnet.benchmark.summary import Difference
from atsnet.training.run_directory import BackboneSource


class BenchmarkResults(BaseModel):
    """The finished cells, and why others are not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    command: str
    """That repeats it."""
    atsnet_version: str
    backbone: BackboneSource
    configuration: dict[str, Any]
    """What all cells share, resolved; the seed, the colour of the frames and a variant's own keys differ."""
    parts: tuple[str, ...]
    titles: dict[str, str]
    """Of the variants, in the order of the tables."""
    assignments: dict[str, tuple[str, ...]]
    """What each variant changes of the configuration."""
    seeds: int
    cells: tuple[CellResult, ...]
    differences: tuple[Difference, ...]
    failures: Mapping[str, str]
    """Why a cell has no result."""

    @property
    def target_false_reject_rate(self) -> float:
        """What the thresholds are for."""
        rate: float = self.configuration["calibration"]["target_false_reject_rate"]
        return rate
