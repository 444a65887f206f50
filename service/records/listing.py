"""The inspections that fit, newest first, a page at a time.

Ids sort by time, so a page is what follows the last one's last id, however much is recorded meanwhile. No transaction
outlives its page.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, func, select
from ulid import ULID

from service.records.inspection import Inspection
from service.records.schema import REJECTED, from_row, inspections, reviews
from service.reply import Review, ReviewWord, VerdictWord

_LATEST: Final = timedelta(days=1)
"""An id is made when the outcome is known: never before the request arrived, and never so long after."""
_CLOCK: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which inspections to list; `None` are all."""

    station: str | None = None
    lot: str | None = None
    serial: str | None = None
    recipe: str | None = None
    verdict: VerdictWord | None = None
    review: ReviewWord | Literal["none"] | None = None
    since: datetime | None = None
    """Arrived then or later."""
    until: datetime | None = None
    """Arrived before."""


@dataclass(frozen=True, slots=True)
class Page:
    """Inspections, newest first, each with the review that counts."""

    entries: Sequence[tuple[Inspection, Review | None]]
    next: str | None
    """Cursor of the page that follows; `None` after the last one."""


def read_page(connection: Connection, filters: Filters, before: str | None, limit: int) -> Page:
    """One page.

    Args:
        connection: Of the records' database.
        filters: Which inspections.
        before: Id that all of the page are older than; `None` for the first page.
        limit: Most inspections of a page.
    """
    rows = connection.execute(matching(filters, before).limit(limit + 1)).mappings().all()
    entries = [(from_row(row), review_of(row)) for row in rows[:limit]]
    return Page(entries, to_cursor(entries[-1][0].id) if len(rows) > limit else None)


def matching(filters: Filters, before: str | None = None) -> Select[Any]:
    """The query: the columns of inspections, and those of the latest review where there is one."""
    latest = select(func.max(reviews.c.id)).where(reviews.c.inspection_id == inspections.c.id)
    joined = inspections.outerjoin(reviews, reviews.c.id == latest.correlate(inspections).scalar_subquery())
    found = select(
        *inspections.c, reviews.c.review, reviews.c.note, reviews.c.reviewer, reviews.c.created.label("reviewed")
    ).select_from(joined)
    for name in ("station", "lot", "serial", "recipe", "verdict"):
        value = getattr(filters, name)
        if value is not None:
            found = found.where(inspections.c[name] == value)
    if filters.verdict not in (None, "pass"):
        found = found.where(REJECTED)  # says nothing new, but that the index of these will do
    if filters.review == "none":
        found = found.where(reviews.c.id.is_(None))
    elif filters.review is not None:
        # The first condition says it all; the second one finds the few without a look at the others.
        ever = select(reviews.c.inspection_id).where(reviews.c.review == filters.review)
        found = found.where(reviews.c.review == filters.review, inspections.c.id.in_(ever))
    found = found.where(*in_period(filters.since, filters.until))
    if before is not None:
        found = found.where(inspections.c.id < before)
    return found.order_by(inspections.c.id.desc())


def in_period(since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    """Conditions on when an inspection arrived, then or later and before; its id makes them ranges of the key."""
    conditions: list[ColumnElement[bool]] = []
    if since is not None:
        conditions += [inspections.c.created >= since, inspections.c.id >= least_id(since - _CLOCK)]
    if until is not None:
        conditions += [inspections.c.created < until, inspections.c.id < least_id(until + _LATEST)]
    return conditions


def latest_review(connection: Connection, inspection_id: str) -> Review | None:
    """The review of an inspection that counts."""
    found = select(reviews.c.review, reviews.c.note, reviews.c.reviewer, reviews.c.created.label("reviewed"))
    newest = found.where(reviews.c.inspection_id == inspection_id).order_by(reviews.c.id.desc()).limit(1)
    row = connection.execute(newest).mappings().first()
    return None if row is None else review_of(row)


def review_of(row: RowMapping) -> Review | None:
    """The review in a row of `matching`."""
    if row["review"] is None:
        return None
    return Review(review=row["review"], note=row["note"], by=row["reviewer"], created=row["reviewed"])


def least_id(moment: datetime) -> str:
    """The least id of a point in time; what is out of the range of ids is as near to it as they reach."""
    milliseconds = min(max(int(moment.timestamp() * 1000), 0), 2**48 - 1)
    return str(ULID.from_int(milliseconds << 80))


def to_cursor(inspection_id: str) -> str:
    """What a client sends to get what follows an inspection."""
    return base64.urlsafe_b64encode(bytes(ULID.from_str(inspection_id))).rstrip(b"=").decode()


def from_cursor(cursor: str) -> str:
    """The id in a cursor.

    Raises:
        ValueError: It is no cursor.
    """
    data = base64.b64decode(f"{cursor}==".encode("ascii"), b"-_", validate=True)
    return str(ULID.from_bytes(data))
