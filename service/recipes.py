"""How a product is inspected: which part of the image, by which bundle, against which thresholds."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atsnet.imaging import Roi
from model_export.bundle import NAME_PATTERN, Manifest


class UnknownRecipeError(LookupError):
    """No recipe has that name; the message lists those that exist."""


class Recipe(BaseModel):
    """One version of a product's recipe; it is never edited, a change makes the next version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    bundle: str
    """`name/version` of the bundle."""
    roi: Roi | None = None
    """Part of the image to inspect; all of it by default."""
    threshold: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Calibrated score above which a part fails; 1.0 is the shipped threshold."""
    review_from: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Calibrated score from which a part that does not fail is for a person to review; none by default."""
    min_side: int = Field(default=32, ge=1)
    """Size gate: least width and height of an image, in pixels."""

    @model_validator(mode="after")
    def _review_below_threshold(self) -> Self:
        if self.review_from is not None and self.review_from > self.threshold:
            raise ValueError(f"review_from {self.review_from} is above the threshold {self.threshold}")
        return self


class RecipeBook:
    """The recipes that requests may name."""

    def __init__(self, default: Recipe) -> None:
        self.default = default
        self._by_name = {default.name: default}

    def get(self, name: str | None) -> Recipe:
        """The recipe of that name, or the default one for none.

        Raises:
            UnknownRecipeError: There is none of that name.
        """
        if name is None:
            return self.default
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownRecipeError(f"there is no recipe {name!r}; have: {', '.join(sorted(self._by_name))}") from None


def default_recipe(manifest: Manifest) -> Recipe:
    """The recipe that a bundle brings along: its product, the whole image, the shipped thresholds."""
    return Recipe(
        name=manifest.product,
        version=1,
        bundle=f"{manifest.name}/{manifest.version}",
        review_from=manifest.calibration.review_score,
    )
