"""Which database a URL means."""

from pathlib import Path

import pytest

from service.records.database import RecordError, database_url, describe


def test_file_under_var_is_the_default() -> None:
    url = database_url(None, Path("/var/a?b%20c"))
    assert (url.get_backend_name(), url.database, describe(url)) == ("sqlite", *["/var/a?b%20c/records.sqlite3"] * 2)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_names_of_postgresql(scheme: str) -> None:
    url = database_url(f"{scheme}://line:p%40ss@db:5433/records?sslmode=require", Path())
    assert (url.drivername, url.host, url.port, url.password) == ("postgresql+psycopg", "db", 5433, "p@ss")
    assert describe(url) == "postgresql+psycopg://line:***@db:5433/records?sslmode=require"


@pytest.mark.parametrize(
    "given", ["", "sesame", "mysql://u:sesame@h/d", "sqlite://", "postgresql+asyncpg://u:sesame@h/d", "://sesame"]
)
def test_what_is_no_database_is_refused_without_its_password(given: str) -> None:
    with pytest.raises(RecordError, match="database_url") as raised:
        database_url(given, Path())
    assert "sesame" not in str(raised.value)
