"""Inspections as a table for a spreadsheet (RFC 4180)."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping

from service.records.listing import Filters, matching

_COLUMNS: Final = (
    *("id", "created", "station", "lot", "serial", "trigger", "recipe", "recipe_version", "verdict", "result", "code"),
    *("score", "raw_score", "threshold", "regions", "ms", "model", "model_version", "model_digest"),
    *("image_sha256", "image_width", "image_height", "detail", "review", "note", "reviewer", "reviewed"),
    *("face", "faces"),
)
HEADER: Final = ",".join(_COLUMNS) + "\r\n"

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would calculate, or let do worse, instead of showing it."""


def read_lines(connection: Connection, filters: Filters, before: str | None, limit: int) -> tuple[str, str | None]:
    """The lines of one page and the id that the next one goes on after; none after the last one.

    `regions` is their number. Text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    rows = connection.execute(matching(filters, before).limit(limit)).mappings().all()
    text = io.StringIO()
    csv.writer(text).writerows(_line(row) for row in rows)
    return text.getvalue(), rows[-1]["id"] if len(rows) == limit else None


def _line(row: RowMapping) -> Sequence[Any]:
    derived = {"regions": len(row["regions"]), "ms": row["timing"]["total"]}
    return [_cell(derived[name] if name in derived else row[name]) for name in _COLUMNS]


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value
