"""What was set up otherwise than before is in the audit trail, and no secret is."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from serving import running
from sqlalchemy import text

from service.records.audit import Entry, entries
from service.records.configuration import note_configuration
from service.records.database import database_url
from service.records.store import RecordStore
from service.runtimes.fake import FakeRuntime
from service.security.key_file import add, revoke
from service.security.keys import new_key
from service.settings import Settings

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def settings(settings: Settings, database: str) -> Settings:
    return settings.model_copy(update={"database_url": database})


def trail(settings: Settings, *starts: Settings) -> list[Entry]:
    store = RecordStore(database_url(settings.database_url, settings.var))
    for started in starts:
        note_configuration(store.engine, started)
    with store.engine.connect() as connection:
        found = entries(connection)
    store.close()
    return found


def test_change_of_a_setting_is_one_entry(settings: Settings) -> None:
    changed = settings.model_copy(update={"queue_size": 7, "records_keep_days": 30.0})
    first, second = trail(settings, settings, settings, changed, changed)
    assert (first.actor, first.action, first.subject, first.old) == ("service", "changed", "settings", None)
    assert first.new["queue_size"] == 64
    assert second.old == {"queue_size": 64, "records_keep_days": None}
    assert (second.new["queue_size"], second.new["records_keep_days"]) == (7, 30.0)


def test_keys_are_named_and_never_shown(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key, line = new_key("line-1", "line", now=NOW)
    add(file, line)
    update = {"api_keys_file": file, "ssl_keyfile_password": "sesame"}
    keyed = settings.model_copy(update=update)
    found = trail(settings, keyed)
    revoke(file, line.id, NOW)
    found += trail(settings, keyed)[len(found) :]
    keys = [entry for entry in found if entry.subject == "keys"]
    before = {"name": "line-1", "role": "line", "created": "2026-01-02T00:00:00Z"}
    assert [entry.new for entry in keys] == [{line.id: before}, {line.id: {**before, "revoked": before["created"]}}]
    assert keys[1].old == {line.id: before}
    shown = repr(found)
    assert not any(secret in shown for secret in (key, line.hash, "sesame"))


def test_password_of_the_database_is_not_shown(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"database_url": "postgresql://line:sesame@db/records"})
    (entry,) = trail(settings, elsewhere)
    assert entry.new["database_url"] == "postgresql+psycopg://line:***@db/records"


def test_service_notes_it_when_it_starts(settings: Settings, runtime: FakeRuntime, apart: bool) -> None:
    for limit in (64, 64, 65):
        with running(settings.model_copy(update={"queue_size": limit}), runtime, apart=apart) as line:
            with line.station.equipment.records.engine.connect() as connection:
                count = connection.execute(text("SELECT count(*) FROM audit WHERE subject = 'settings'")).scalar()
            assert count == limit - 63
