"""The first start makes the station's secrets, and no later one changes them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from station_files import DOCKER

from service.security.key_file import KeySource


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for reader in ("keys", "prometheus", "grafana", "postgres"):
        (tmp_path / reader).mkdir()
    return tmp_path


def set_up(secrets: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["sh", str(DOCKER / "setup.sh"), str(secrets)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def contents(secrets: Path) -> dict[str, str]:
    return {str(path.relative_to(secrets)): path.read_text() for path in secrets.rglob("*") if path.is_file()}


def test_every_reader_gets_its_own(secrets: Path) -> None:
    set_up(secrets)

    made = contents(secrets)

    assert set(made) == {
        "keys/keys.jsonl", "keys/pgpass", "prometheus/key", "grafana/admin-password", "postgres/password",
    }  # fmt: skip
    assert made["keys/pgpass"] == f"postgres:5432:atsnet:atsnet:{made['postgres/password']}"
    assert len({made["grafana/admin-password"], made["postgres/password"]}) == 2
    assert all(len(made[name].strip()) >= 32 for name in ("grafana/admin-password", "postgres/password"))
    assert stat.S_IMODE((secrets / "keys/pgpass").stat().st_mode) == 0o600  # or libpq does not read it
    identity = KeySource(secrets / "keys/keys.jsonl", None).ring().find(made["prometheus/key"].strip().encode(), 0)
    assert (identity.name, identity.role.word) == ("prometheus", "monitor")


def test_secrets_are_not_said(secrets: Path) -> None:
    said = set_up(secrets)

    made = contents(secrets)
    for name in ("prometheus/key", "grafana/admin-password", "postgres/password"):
        assert made[name].strip() not in said


def test_a_second_start_changes_nothing(secrets: Path) -> None:
    set_up(secrets)
    before = contents(secrets)

    assert set_up(secrets) == ""

    assert contents(secrets) == before


def test_what_was_lost_is_made_anew(secrets: Path) -> None:
    set_up(secrets)
    before = contents(secrets)
    (secrets / "prometheus/key").unlink()

    set_up(secrets)

    after = contents(secrets)
    assert after.pop("prometheus/key") != before.pop("prometheus/key")
    assert len(after.pop("keys/keys.jsonl").splitlines()) == 2
    before.pop("keys/keys.jsonl")
    assert after == before
