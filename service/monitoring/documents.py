"""What is told of drift: how a recipe stands, and what changed."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.monitoring.drift import DriftEvent, DriftState, Kind, Quantity, Test
from service.monitoring.sequential import Change


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class AlarmDocument(_Document):
    """An alarm that lasts."""

    test: Test = Field(description="Which test raised it.")
    change: Change
    since: datetime
    observation: int = Field(ge=1, description="Number of the inspection that raised it.")


class QuantityDocument(_Document):
    """How one quantity stands."""

    level: float = Field(ge=0, description="How near it is to an alarm: 1 is the limit, and at least 1 during one.")
    psi: float | None = Field(description="Stability index of the last inspections; null until there are enough.")
    psi_limit: float
    evidence: float = Field(ge=0, description="Of the sequential test.")
    evidence_limit: float
    alarm: AlarmDocument | None


class DriftDocument(_Document):
    """How the parts of a recipe compare with those that it was calibrated on."""

    recipe: str
    revision: str = Field(description="Version of the recipe and bundle that are watched.")
    observations: int = Field(ge=0, description="Inspections since it is watched, or was reset.")
    basis: Literal["calibration", "production"] = Field(
        description="What is compared with: the calibration's images or, where a bundle brings none, the first parts."
    )
    learning: bool = Field(description="Whether those first parts are still being collected.")
    level: float = Field(ge=0, description="The highest of the quantities', as in `inspect_score_drift`.")
    quantities: dict[Quantity, QuantityDocument]


class DriftNews(_Document):
    """An alarm that begins or ends; the data of an event `drift`."""

    kind: Kind
    recipe: str
    revision: str
    quantity: Quantity
    at: datetime
    message: str = Field(description="For a person.")
    alarm: AlarmDocument
    state: QuantityDocument


def document_of(state: DriftState) -> DriftDocument:
    """How a recipe stands, to be told."""
    return DriftDocument.model_validate(state)


def news_of(event: DriftEvent) -> DriftNews:
    """What happened, to be told."""
    return DriftNews.model_validate(event)
