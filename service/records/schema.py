"""The tables, in terms that SQLite and PostgreSQL share.

This is what they have become; `migrations` makes them, and a test holds the two together.
"""

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from service.records.inspection import FrameLayout, Inspection
from service.reply import Region, Timing


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, always with its zone in Python; SQLite keeps none, so it is UTC there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Say that it is UTC where the database did not."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata: Final = MetaData()

_ID: Final = String(26).with_variant(String(26, collation="C"), "postgresql")
_SERIAL: Final = BigInteger().with_variant(Integer, "sqlite")
_ORDERED: Final = Text().with_variant(Text(collation="C"), "postgresql")
REJECTED: Final = text("verdict <> 'pass'")

inspections: Final = Table(
    "inspections",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("created", UtcDateTime, nullable=False),
    Column("request_key", Text, unique=True),
    Column("station", Text),
    Column("lot", Text),
    Column("serial", Text),
    Column("trigger", BigInteger),
    Column("recipe", Text, nullable=False),
    Column("recipe_version", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("result", Integer, nullable=False),
    Column("code", Integer, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("score", Float(53)),
    Column("raw_score", Float(53)),
    Column("threshold", Float(53), nullable=False),
    Column("regions", JSON, nullable=False),
    Column("timing", JSON, nullable=False),
    Column("image_sha256", String(64), nullable=False),
    Column("image_width", Integer, nullable=False),
    Column("image_height", Integer, nullable=False),
    Column("layout", JSON, nullable=False),
    Column("detail", Text),
    Column("face", Integer),
    Column("faces", Integer),
    Index("ix_inspections_station", "station", "id"),
    Index("ix_inspections_lot", "lot", "id"),
    Index("ix_inspections_serial", "serial", "id"),
    # Of the few that did not pass, so that a good part's record pays nothing for it.
    Index("ix_inspections_verdict", "verdict", "id", sqlite_where=REJECTED, postgresql_where=REJECTED),
)

reviews: Final = Table(
    "reviews",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("inspection_id", _ID, ForeignKey("inspections.id"), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("reviewer", Text),
    Column("review", Text, nullable=False),
    Column("note", Text, nullable=False),
    Index("ix_reviews_inspection_id", "inspection_id", "id"),
    Index("ix_reviews_review", "review", "inspection_id"),
    sqlite_autoincrement=True,
)

audit_trail: Final = Table(
    "audit",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("created", UtcDateTime, nullable=False),
    Column("actor", Text),
    Column("role", Text),
    Column("action", Text, nullable=False),
    Column("subject", _ORDERED, nullable=False),
    Column("old", JSON(none_as_null=True)),
    Column("new", JSON(none_as_null=True)),
    Index("ix_audit_action", "action", "subject"),
    sqlite_autoincrement=True,
)

recipe_versions: Final = Table(
    "recipe_versions",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("document", JSON, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("created_by", Text),
)

recipe_activations: Final = Table(
    "recipe_activations",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("as_default", Boolean, nullable=False),
    Column("activated", UtcDateTime, nullable=False),
    Column("activated_by", Text),
    ForeignKeyConstraint(["name", "version"], ["recipe_versions.name", "recipe_versions.version"]),
    Index("ix_recipe_activations_name", "name", "id"),
    sqlite_autoincrement=True,
)
"""The last row of a name says which version is active, the last row `as_default` which recipe is the default."""

_REGIONS: Final = TypeAdapter(tuple[Region, ...])
_FIELDS: Final = tuple(field.name for field in fields(Inspection))


def to_row(inspection: Inspection) -> dict[str, Any]:
    """The values of an inspection's columns."""
    row = {name: getattr(inspection, name) for name in _FIELDS}
    row["regions"] = _REGIONS.dump_python(inspection.regions, mode="json")
    row["timing"] = inspection.timing.model_dump(mode="json")
    row["layout"] = inspection.layout.model_dump(mode="json")
    return row


def from_row(row: RowMapping) -> Inspection:
    """The inspection of a row of the table; further columns do not matter."""
    values = {name: row[name] for name in _FIELDS}
    values["regions"] = _REGIONS.validate_python(values["regions"])
    values["timing"] = Timing.model_validate(values["timing"])
    values["layout"] = FrameLayout.model_validate(values["layout"])
    return Inspection(**values)
