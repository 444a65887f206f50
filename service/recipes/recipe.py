"""How a product is inspected: which part of the image, by which bundle, against which thresholds."""

from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atsnet.imaging import Roi
from atsnet.limits import MAX_SIDE
from atsnet.quality import Gates
from model_export.bundle import NAME_PATTERN, Manifest

BUNDLE_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}/[a-z0-9][a-z0-9._-]{0,63}$"
"""`name/version` of a bundle."""


class HeatmapStyle(BaseModel):
    """How the pictures of a product's anomaly maps look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    colors: Literal["inferno", "viridis", "turbo", "hot", "bone"] = "inferno"
    """Colour map."""
    top: float = Field(default=2.0, gt=0, le=100, allow_inf_nan=False)
    """Calibrated value in the brightest colour; 1.0 is the threshold."""
    opacity: float = Field(default=0.65, ge=0, le=1)
    """Of the map over the image, where it is at the threshold or above."""
    contour: bool = True
    """Whether a line is drawn around what is above the threshold."""


class Recipe(BaseModel):
    """One version of a product's recipe; it is never edited, a change makes the next version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    bundle: str = Field(pattern=BUNDLE_PATTERN)
    """`name/version` of the bundle."""
    roi: Roi | None = None
    """Part of the image to inspect; all of it by default."""
    threshold: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Calibrated score above which a part fails; 1.0 is the shipped threshold."""
    review_from: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Calibrated score from which a part that does not fail is for a person to review; none by default."""
    min_side: int = Field(default=32, ge=1, le=MAX_SIDE)
    """Size gate: least width and height of an image, in pixels."""
    max_side: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    """Size gate: most width and height of an image, in pixels; no limit by default."""
    gates: Gates = Gates()
    """What the inspected part of an image must be like: brightness, contrast, sharpness and exposure."""
    heatmap: HeatmapStyle = HeatmapStyle()
    """How pictures of the anomaly map look."""

    @model_validator(mode="after")
    def _review_below_threshold(self) -> Self:
        if self.review_from is not None and self.review_from > self.threshold:
            raise ValueError(f"review_from {self.review_from} is above the threshold {self.threshold}")
        if self.max_side is not None and self.max_side < self.min_side:
            raise ValueError(f"max_side {self.max_side} is below min_side {self.min_side}")
        return self


def default_recipe(manifest: Manifest) -> Recipe:
    """The recipe that a bundle brings along: its product, the whole image, its thresholds and gates."""
    return Recipe(
        name=manifest.product,
        version=1,
        bundle=f"{manifest.name}/{manifest.version}",
        review_from=manifest.calibration.review_score,
        gates=manifest.gates or Gates(),
    )


def adopt(recipe: Recipe, before: Manifest, after: Manifest) -> Recipe:
    """The recipe with another bundle: what was the old bundle's own word becomes the new one's, the rest stays.

    Args:
        recipe: With the old bundle.
        before: Of the old bundle.
        after: Of the new bundle.
    """
    old, new = default_recipe(before), default_recipe(after)
    changes = {
        name: getattr(new, name)
        for name in Recipe.model_fields
        if name not in ("name", "version") and getattr(recipe, name) == getattr(old, name)
    }
    changed = recipe.model_copy(update={**changes, "bundle": new.bundle})
    if changed.review_from is not None and changed.review_from > changed.threshold:
        changed = changed.model_copy(update={"review_from": changed.threshold})
    return changed
