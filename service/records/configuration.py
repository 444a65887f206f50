"""Changes of settings and keys in the audit trail: what a start finds to be other than the last one had it."""

from typing import Any, Final

from sqlalchemy import Connection, Engine

from service.records.audit import SERVICE, audit, last_entry
from service.records.database import database_url, describe, writing
from service.security.key_file import read_lines
from service.security.keys import KeyFileError, KeyLine, parse_lines
from service.settings import Settings

_SECRET: Final = frozenset({"api_keys", "ssl_keyfile_password"})


def note_configuration(engine: Engine, settings: Settings) -> None:
    """Add an entry for the settings, and one for the keys, if they have changed since the last entry.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database refused.
    """
    with writing(engine) as connection:
        _note(connection, "settings", _shown(settings))
        keys = _keys(settings)
        if keys is not None:
            _note(connection, "keys", keys)


def _note(connection: Connection, subject: str, now: dict[str, Any]) -> None:
    """What is new is there in full, and of what was before only that which is other now."""
    last = last_entry(connection, subject, "changed")
    before = {} if last is None else last.new
    if before != now:  # no keys now, and none ever, is no change
        old = {name: value for name, value in before.items() if value != now.get(name)}
        audit(connection, SERVICE, "changed", subject, old=old or None, new=now)


def _shown(settings: Settings) -> dict[str, Any]:
    shown = settings.model_dump(mode="json", exclude=set(_SECRET))
    if settings.database_url is not None:
        shown["database_url"] = describe(database_url(settings.database_url, settings.var))
    return shown


def _keys(settings: Settings) -> dict[str, Any] | None:
    """Whose keys there are, by their public ids; `None` where they cannot be read, which is the gate's business."""
    try:
        lines = parse_lines(settings.api_keys, "ATSNET_API_KEYS") if settings.api_keys else []
        lines += read_lines(settings.api_keys_file) if settings.api_keys_file else []
    except KeyFileError:
        return None
    return {line.id: _key(line) for line in lines}


def _key(line: KeyLine) -> dict[str, Any]:
    return line.model_dump(mode="json", exclude={"id", "hash"}, exclude_none=True)
