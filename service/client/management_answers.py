"""What the service answers about recipes and bundles, and the parts of a recipe that a client may send."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from service.reply import VerdictWord


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class Roi(_Document):
    """Part of an image, in its pixels."""

    x: int
    y: int
    width: int
    height: int


class Limits(_Document):
    """What a quantity may be, both ends included; `None` for no limit."""

    min: float | None = None
    max: float | None = None


class Gates(_Document):
    """What an image must be like to be inspected at all."""

    brightness: Limits = Limits()
    contrast: Limits = Limits()
    sharpness: Limits = Limits()
    clipped: Limits = Limits()


class HeatmapStyle(_Document):
    """How the pictures of anomaly maps look."""

    colors: Literal["inferno", "viridis", "turbo", "hot", "bone"] = "inferno"
    top: float = 2.0
    """Calibrated value in the brightest colour."""
    opacity: float = 0.65
    contour: bool = True


class RecipeVersion(_Document):
    """One version of a recipe."""

    name: str
    version: int
    bundle: str
    """`name/version`."""
    roi: Roi | None
    threshold: float
    review_from: float | None
    min_side: int
    max_side: int | None
    gates: Gates
    heatmap: HeatmapStyle
    created: datetime
    created_by: str | None
    active: bool
    default: bool
    """Active, and what requests that name no recipe get."""


class RecipeHistory(_Document):
    """A recipe with all of its versions."""

    name: str
    active: int | None
    default: bool
    versions: tuple[RecipeVersion, ...]
    """The oldest first."""


class RecipeList(_Document):
    """All recipes."""

    default: str
    recipes: tuple[RecipeHistory, ...]


class Change(_Document):
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


class Preview(_Document):
    """What thresholds would have done to the recorded inspections of a recipe."""

    recipe: str
    threshold: float
    review_from: float | None
    inspections: int
    was: dict[VerdictWord, int]
    would_be: dict[VerdictWord, int]
    changed: int
    changes: tuple[Change, ...]


class DriftAlarm(_Document):
    """An alarm that lasts."""

    test: Literal["sequential", "stability"]
    change: Literal["higher", "lower", "wider", "narrower"]
    since: datetime
    observation: int


class DriftQuantity(_Document):
    """How one quantity stands."""

    level: float
    """1 is the limit, and at least 1 during an alarm."""
    psi: float | None
    psi_limit: float
    evidence: float
    evidence_limit: float
    alarm: DriftAlarm | None


class Drift(_Document):
    """How the parts of a recipe compare with those that it was calibrated on."""

    recipe: str
    revision: str
    observations: int
    basis: Literal["calibration", "production"]
    learning: bool
    level: float
    quantities: dict[Literal["score", "brightness", "sharpness"], DriftQuantity]


class SelfTest(_Document):
    """What came of the golden samples of one bundle."""

    bundle: str
    passed: bool
    samples: int
    largest_score_difference: float | None
    at: datetime
    detail: str | None


class SelfTests(_Document):
    """What came of the golden samples of all bundles in service."""

    passed: bool
    bundles: tuple[SelfTest, ...]


class Model(_Document):
    """One bundle."""

    name: str
    version: str
    state: Literal["active", "unfit", "available", "unreadable"]
    product: str | None = None
    digest: str | None = None
    created: datetime | None = None
    precisions: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    metrics: dict[str, Any] = {}
    self_test: SelfTest | None = None
    detail: str | None = None


class ModelList(_Document):
    """All bundles."""

    models: tuple[Model, ...]
