"""Deletes inspections whose time is over, behind the back of the line: a few at a time, and never without an entry.

The database refuses to delete an inspection before the audit trail says that all older ones go, so the entry comes
first. See the triggers in `migrations`.
"""

import threading
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import Engine, delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from service.records.audit import SERVICE, audit
from service.records.database import reason_of, writing
from service.records.listing import least_id
from service.records.schema import inspections, reviews

log = structlog.get_logger(__name__)

_EVERY_S: Final = 3600.0
_AT_ONCE: Final = 200
"""Inspections of one transaction: it holds SQLite's only lock for a few milliseconds."""
_PAUSE_S: Final = 0.05


class Retention:
    """A thread that looks every hour for inspections that are older than they shall become.

    Args:
        engine: The records' database.
        days: Age from which on they go.
    """

    def __init__(self, engine: Engine, days: float) -> None:
        self._engine = engine
        self._age = timedelta(days=days)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record-retention", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the transaction that is under way; the rest goes another time."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            before = datetime.now(UTC) - self._age
            try:
                deleted = expire(self._engine, before, self._closing)
                if deleted:
                    log.info("records_expired", before=before.isoformat(), inspections=deleted)
            except SQLAlchemyError as error:
                log.error("records_not_expired", reason=reason_of(error))
            self._closing.wait(_EVERY_S)


def expire(engine: Engine, before: datetime, closing: threading.Event) -> int:
    """Delete the inspections, with their reviews, whose outcome is older than a point in time.

    Returns:
        How many were deleted before `closing` was set.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database refused; what was deleted until then stays so.
    """
    end = least_id(before)
    old = inspections.c.id < end
    with engine.connect() as connection:
        count = connection.execute(select(func.count()).where(old)).scalar_one()
    if count == 0:
        return 0
    with writing(engine) as connection:
        new = {"before": before.isoformat(), "inspections": count}
        audit(connection, SERVICE, "expired", f"inspections/{end}", new=new)
    deleted = 0
    while not closing.is_set():
        with writing(engine) as connection:
            ids = connection.execute(select(inspections.c.id).where(old).order_by(inspections.c.id).limit(_AT_ONCE))
            some = list(ids.scalars())
            if not some:
                break
            connection.execute(delete(reviews).where(reviews.c.inspection_id <= some[-1]))
            connection.execute(delete(inspections).where(inspections.c.id <= some[-1]))
        deleted += len(some)
        closing.wait(_PAUSE_S)
    return deleted
