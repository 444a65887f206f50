"""From cells to figures with their spread: by part, over all parts, by defect, and one variant against another.

The spread is the standard deviation over seeds (n - 1 in the denominator). A figure over all parts is their mean, taken
seed by seed before the spread is; so is a difference, which compares the same parts and seeds.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from atsnet.benchmark.cell import CellResult
from atsnet.data.layout import GOOD

ALL: Final = "all parts"


@dataclass(frozen=True, slots=True)
class Figure:
    """One column of the tables."""

    heading: str
    of: Callable[[CellResult], float | None]
    """A share of one, unless `unit` says otherwise; None where it is not defined."""
    decimals: int = 1
    unit: str = "%"

    def text(self, spread: "Spread | None") -> str:
        """As it stands in a table; a dash where it is not defined."""
        if spread is None:
            return "-"
        scale = 100 if self.unit == "%" else 1e-6 if self.unit == "M" else 1
        text = f"{scale * spread.mean:.{self.decimals}f}"
        if spread.deviation is None or self.unit == "M":  # how large a detector is does not depend on the seed
            return text
        return f"{text} ± {scale * spread.deviation:.{self.decimals}f}"


def _decision(name: str) -> Callable[[CellResult], float | None]:
    return lambda cell: getattr(cell.report.decisions, name, None)


IMAGE_AUROC: Final = Figure("image AUROC", lambda cell: cell.report.image_auroc)
AUPRO: Final = Figure("AUPRO@0.3", lambda cell: cell.report.aupro)
FIGURES: Final = (
    IMAGE_AUROC,
    Figure("image AP", lambda cell: cell.report.image_ap),
    Figure("F1-max", lambda cell: cell.report.image_f1_max),
    AUPRO,
    Figure("AUPRO@0.05", lambda cell: cell.report.aupro_005),
    Figure("pixel AUROC", lambda cell: cell.report.pixel_auroc),
    Figure("false rejects", _decision("false_reject_rate")),
    Figure("escapes", _decision("escape_rate")),
    Figure("ms a frame", lambda cell: cell.speed.ms, unit="ms"),
    Figure("M numbers", lambda cell: float(cell.size.trunk + cell.size.learned), decimals=2, unit="M"),
)
"""Of every cell, in the order of the tables."""


class Spread(BaseModel):
    """A mean and how far the seeds are apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    deviation: float | None
    """None with a single seed."""
    seeds: int


class Difference(BaseModel):
    """What one variant finds more than another, over the parts and seeds that both have; in shares of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    other: str
    parts: int
    image_auroc: Spread | None
    aupro: Spread | None


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of one value a seed; None where none is defined."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    deviation = statistics.stdev(defined) if len(defined) > 1 else None
    return Spread(mean=statistics.fmean(defined), deviation=deviation, seeds=len(defined))


def over_seeds(cells: Iterable[CellResult], of: Callable[[CellResult], float | None]) -> Spread | None:
    """A figure of cells of one variant: the mean of their parts, seed by seed, and its spread."""
    by_seed: dict[int, list[float]] = {}
    for cell in cells:
        value = of(cell)
        if value is not None:
            by_seed.setdefault(cell.seed, []).append(value)
    return spread(statistics.fmean(values) for values in by_seed.values())


def by_part_and_variant(cells: Sequence[CellResult]) -> dict[tuple[str, str], list[CellResult]]:
    """Cells by part and variant; those of all parts together where there are several, under `ALL`."""
    grouped: dict[tuple[str, str], list[CellResult]] = {}
    for cell in cells:
        grouped.setdefault((cell.part, cell.variant), []).append(cell)
    if len({cell.part for cell in cells}) > 1:
        for cell in cells:
            grouped.setdefault((ALL, cell.variant), []).append(cell)
    return grouped


def by_defect(cells: Sequence[CellResult]) -> dict[tuple[str, str], dict[str, Spread | None]]:
    """Image AUROC of each part's defects against its good images, by variant."""
    values: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    for cell in cells:
        for label in cell.report.labels:
            if label.label != GOOD:
                of_defect = values.setdefault((cell.part, label.label), {})
                of_defect.setdefault(cell.variant, []).append(label.image_auroc)
    return {
        defect: {variant: spread(of_variant) for variant, of_variant in of_defect.items()}
        for defect, of_defect in sorted(values.items())
    }


def difference(cells: Sequence[CellResult], variant: str, other: str) -> Difference:
    """`variant` minus `other`."""
    ours = {(cell.part, cell.seed): cell for cell in cells if cell.variant == variant}
    theirs = {(cell.part, cell.seed): cell for cell in cells if cell.variant == other}
    pairs = [(ours[key], theirs[key]) for key in sorted(ours.keys() & theirs.keys())]
    return Difference(
        variant=variant,
        other=other,
        parts=len({mine.part for mine, _ in pairs}),
        image_auroc=_paired(pairs, IMAGE_AUROC.of),
        aupro=_paired(pairs, AUPRO.of),
    )


def difference_text(found: Difference, titles: Mapping[str, str]) -> str:
    """A difference as a sentence."""
    parts = []
    for what, value in ((IMAGE_AUROC.heading, found.image_auroc), (AUPRO.heading, found.aupro)):
        if value is not None:
            apart = "" if value.deviation is None else f" ± {100 * value.deviation:.1f}"
            parts.append(f"{100 * value.mean:+.1f}{apart} points of {what}")
    # A title that begins with a plus names a step of an ablation, which has all steps before it too.
    variant, other = (titles[name].replace("+ ", "up to ", 1) for name in (found.variant, found.other))
    return f"{variant} minus {other}: {', '.join(parts) or 'nothing to compare'}"


def _paired(pairs: Iterable[tuple[CellResult, CellResult]], of: Callable[[CellResult], float | None]) -> Spread | None:
    by_seed: dict[int, list[float]] = {}
    for ours, theirs in pairs:
        mine, other = of(ours), of(theirs)
        if mine is not None and other is not None:
            by_seed.setdefault(ours.seed, []).append(mine - other)
    return spread(statistics.fmean(values) for values in by_seed.values())
