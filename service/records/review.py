"""What a person says of an inspection, beside it: the verdict that was answered never changes."""

from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from service.records.audit import Actor, audit
from service.records.listing import latest_review
from service.records.schema import inspections, reviews
from service.reply import ReviewWord


def add_review(connection: Connection, inspection_id: str, word: ReviewWord, note: str, actor: Actor) -> bool:
    """Add a review with its entry in the trail; one that its author repeats is there already.

    Returns:
        Whether there is such an inspection.
    """
    if connection.execute(select(inspections.c.id).where(inspections.c.id == inspection_id)).first() is None:
        return False
    before = latest_review(connection, inspection_id)
    if before is not None and (before.review, before.note, before.by) == (word, note, actor.name):
        return True
    row = {"created": datetime.now(UTC), "reviewer": actor.name, "review": word, "note": note}
    connection.execute(insert(reviews).values(inspection_id=inspection_id, **row))
    old = None if before is None else before.model_dump(include={"review", "note"})
    audit(connection, actor, "reviewed", f"inspection/{inspection_id}", old=old, new={"review": word, "note": note})
    return True
