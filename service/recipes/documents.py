"""What the routes of recipes and models take and answer."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from atsnet.imaging import Roi
from atsnet.limits import MAX_SIDE
from atsnet.quality import Gates
from model_export.bundle import NAME_PATTERN
from service.moments import ISO_8601
from service.recipes.recipe import BUNDLE_PATTERN, HeatmapStyle, Recipe
from service.reply import VerdictWord

Score = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecipeDraft(_Request):
    """A recipe's next version. What is left out stays as in the active version, or is as the bundle has it."""

    name: str = Field(pattern=NAME_PATTERN, description="The product; requests name it.")
    bundle: str | None = Field(
        default=None, pattern=BUNDLE_PATTERN, description="`name/version`; the default recipe's for a new recipe."
    )
    roi: Roi | None = Field(default=None, description="Part of the image to inspect; null for all of it.")
    threshold: Score = Field(default=1.0, description="Calibrated score above which a part fails.")
    review_from: Score | None = Field(
        default=None, description="Calibrated score from which a part is for a person to review; null for none."
    )
    min_side: int = Field(default=32, ge=1, le=MAX_SIDE, description="Least width and height of an image, in pixels.")
    max_side: int | None = Field(
        default=None, ge=1, le=MAX_SIDE, description="Most width and height of an image, in pixels."
    )
    gates: Gates = Field(default=Gates(), description="What the inspected part of an image must be like.")
    heatmap: HeatmapStyle = Field(default=HeatmapStyle(), description="How pictures of the anomaly map look.")


class RecipeActivation(_Request):
    """Which version of a recipe is to be active."""

    version: int = Field(ge=1)
    default: bool = Field(default=False, description="Whether requests that name no recipe get it from now on.")


class PreviewRequest(_Request):
    """What is to be tried on the recorded inspections."""

    threshold: Score | None = Field(default=None, description="The active version's if it is left out.")
    review_from: Score | None = Field(
        default=None, description="The active version's if it is left out; null tries none."
    )
    since: Annotated[AwareDatetime, ISO_8601] | None = Field(default=None, description="Inspections from then on.")
    until: Annotated[AwareDatetime, ISO_8601] | None = Field(default=None, description="Inspections before then.")
    bundle: str | None = Field(
        default=None, pattern=BUNDLE_PATTERN, description="Only inspections by this bundle, `name/version`."
    )
    limit: int = Field(default=100, ge=0, le=1000, description="Most inspections that are listed.")


class RecipeDocument(Recipe):
    """One version of a recipe."""

    created: datetime
    created_by: str | None = Field(description="Whose key it was; null where keys are not asked for.")
    active: bool
    default: bool = Field(description="Active, and what requests that name no recipe get.")


class RecipeHistory(BaseModel):
    """A recipe with all of its versions."""

    name: str
    active: int | None = Field(description="The active version; null before any was activated.")
    default: bool
    versions: list[RecipeDocument] = Field(description="The oldest first.")


class RecipeList(BaseModel):
    """All recipes."""

    default: str = Field(description="The recipe of requests that name none.")
    recipes: list[RecipeHistory]


class Change(BaseModel):
    """An inspection that would have got another verdict."""

    id: str
    created: datetime
    station: str | None
    lot: str | None
    serial: str | None
    model: str
    model_version: str
    score: float
    was: VerdictWord
    would_be: VerdictWord


class PreviewDocument(BaseModel):
    """What thresholds would have done to the recorded inspections of a recipe; nothing was changed."""

    recipe: str
    threshold: float
    review_from: float | None
    inspections: int
    was: dict[VerdictWord, int] = Field(description="Number of each verdict as it was recorded.")
    would_be: dict[VerdictWord, int] = Field(description="Number of each verdict with these thresholds.")
    changed: int = Field(description="Inspections that would have got another verdict.")
    changes: list[Change] = Field(description="The newest of those, as many as the limit says.")


class SelfTestDocument(BaseModel):
    """What came of the golden samples of one bundle."""

    bundle: str
    passed: bool
    samples: int
    largest_score_difference: float | None = Field(description="Relative; null where it failed.")
    at: datetime
    detail: str | None = Field(description="What failed.")


class SelfTests(BaseModel):
    """What came of the golden samples of all bundles in service."""

    passed: bool
    bundles: list[SelfTestDocument]


class ModelDocument(BaseModel):
    """One bundle."""

    name: str
    version: str
    state: Literal["active", "unfit", "available", "unreadable"] = Field(
        description="Active while an active recipe names it; unfit where it then fails its golden samples; available "
        "otherwise; unreadable where its manifest is."
    )
    product: str | None = None
    digest: str | None = Field(default=None, description="sha256 of the manifest.")
    created: datetime | None = None
    precisions: list[str] = Field(default=[], description="Of its graphs.")
    recipes: list[str] = Field(default=[], description="Active recipes that name it.")
    metrics: dict[str, Any] = Field(default={}, description="Measured when it was made.")
    self_test: SelfTestDocument | None = Field(default=None, description="The last one since it was loaded.")
    detail: str | None = Field(default=None, description="Why it cannot be read, or must not inspect.")


class ModelList(BaseModel):
    """All bundles."""

    models: list[ModelDocument]
