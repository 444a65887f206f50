"""The audit trail: who changed what, when, and from what to what. The database refuses to alter or delete it.

Whoever changes something in the database writes its entry in the same transaction, so that there is neither without
the other:

    with writing(engine) as connection:
        ...
        audit(connection, actor, "activated", "recipe/tec-grain", old={"version": 3}, new={"version": 4})
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, insert, select
from starlette.requests import Request

from service.records.schema import audit_trail
from service.security.keys import Identity

Action = Literal["created", "activated", "reviewed", "changed", "expired", "reset"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something."""

    name: str | None
    """Of the API key; `None` where the service is open and nobody says who they are."""
    role: str | None


SERVICE: Final = Actor("service", None)
"""What the service does by itself, or finds done to it when it starts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail."""

    id: int
    created: datetime
    actor: str | None
    role: str | None
    action: Action
    subject: str
    old: Any
    new: Any


def actor_of(request: Request) -> Actor:
    """Whose key a request came with, as the gate found (`request.state.identity`)."""
    identity: Identity | None = getattr(request.state, "identity", None)
    if identity is None or identity.key_id is None:
        return Actor(None, None)
    return Actor(identity.name, identity.role.word)


def audit(
    connection: Connection, actor: Actor, action: Action, subject: str, *, old: Any = None, new: Any = None
) -> None:
    """Add an entry, within the connection's transaction.

    Args:
        connection: Of the records' database.
        actor: Who did it.
        action: What was done.
        subject: To what: `recipe/NAME`, `bundle/NAME`, `inspection/ID`, `drift/NAME`, `settings`, `key/ID`.
        old: What it was before, as JSON; `None` where there was nothing.
        new: What it is from now on. Never a secret: the trail is for ever.
    """
    row = {"created": datetime.now(UTC), "actor": actor.name, "role": actor.role, "action": action}
    connection.execute(insert(audit_trail).values(**row, subject=subject, old=old, new=new))


def last_entry(connection: Connection, subject: str, action: Action) -> Entry | None:
    """The newest entry of that kind."""
    found = select(audit_trail).where(audit_trail.c.subject == subject, audit_trail.c.action == action)
    row = connection.execute(found.order_by(audit_trail.c.id.desc()).limit(1)).first()
    return None if row is None else Entry(**row._mapping)


def entries(connection: Connection, *, after: int = 0, limit: int = 1000) -> list[Entry]:
    """The trail from its beginning on, or from after an entry."""
    found = select(audit_trail).where(audit_trail.c.id > after).order_by(audit_trail.c.id).limit(limit)
    return [Entry(**row._mapping) for row in connection.execute(found)]
