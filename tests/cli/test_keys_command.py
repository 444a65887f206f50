import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from invoking import atsnet

from service.security.key_file import KeySource
from service.security.keys import KeyRing, parse_lines
from service.security.roles import Role

NAMED = ("--name", "press-3", "--role", "line")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def test_key_and_line_fit_each_other() -> None:
    result = atsnet("keys", "new", *NAMED)
    assert result.exit_code == 0
    key, line = result.stdout.splitlines()
    found = KeyRing(parse_lines(line, "stdout")).find(key.encode(), datetime.now(UTC).timestamp())
    assert (found.name, found.role) == ("press-3", Role.LINE)
    assert key not in line


def test_new_key_is_in_the_file_and_alone_on_standard_output(file: Path) -> None:
    result = atsnet("keys", "new", *NAMED, "--file", file)
    key = result.stdout.strip()
    assert len(result.stdout.splitlines()) == 1
    assert str(file) in result.stderr
    assert KeySource(file, None).ring().find(key.encode(), datetime.now(UTC).timestamp()).name == "press-3"
    assert key not in file.read_text()


def test_file_from_the_service_s_own_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATSNET_API_KEYS_FILE", str(file))
    made = json.loads(atsnet("keys", "new", *NAMED, "--json").stdout)
    (listed,) = json.loads(atsnet("keys", "list", "--json").stdout)["keys"]
    assert listed["id"] == made["line"]["id"]
    assert made["key"].startswith(f"atsnet_{listed['id']}_")


def test_rotation(file: Path) -> None:
    old, new = (json.loads(atsnet("keys", "new", *NAMED, "--file", file, "--json").stdout) for _ in range(2))
    assert atsnet("keys", "revoke", old["line"]["id"], "--file", file).exit_code == 0
    listed = json.loads(atsnet("keys", "list", "--file", file, "--json").stdout)["keys"]
    assert [(one["id"], one["name"], one["state"]) for one in listed] == [
        (old["line"]["id"], "press-3", "revoked"),
        (new["line"]["id"], "press-3", "valid"),
    ]
    table = atsnet("keys", "list", "--file", file).stdout
    assert old["line"]["id"] in table
    assert "revoked" in table
    assert "blake2b" not in table


@pytest.mark.parametrize("role", ["operator", "engineer"])
def test_roles(role: str) -> None:
    made = json.loads(atsnet("keys", "new", "--name", "a", "--role", role, "--json").stdout)
    assert made["line"]["role"] == role


def test_expiry_by_days() -> None:
    line = json.loads(atsnet("keys", "new", *NAMED, "--expires", "90d", "--json").stdout)["line"]
    lasts = datetime.fromisoformat(line["expires"]) - datetime.fromisoformat(line["created"])
    assert lasts == timedelta(days=90)


def test_last_day_counts_in_full() -> None:
    line = json.loads(atsnet("keys", "new", *NAMED, "--expires", "2099-12-31", "--json").stdout)["line"]
    assert datetime.fromisoformat(line["expires"]) == datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("expires", ["soon", "2099-02-30", "-3d", "d", "99999999d", "31.12.2099"])
def test_expiry_that_is_none(expires: str) -> None:
    result = atsnet("keys", "new", *NAMED, f"--expires={expires}")
    assert result.exit_code == 2
    assert "2027-12-31" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--name", "Press 3", "--role", "line"), "name"),
        ((*NAMED, "--expires", "2020-01-01"), "in the past"),
    ],
)
def test_key_that_cannot_be(options: tuple[str, ...], message: str) -> None:
    result = atsnet("keys", "new", *options)
    assert result.exit_code == 4
    assert message in result.stderr
    assert result.stdout == ""


def test_unknown_role() -> None:
    assert atsnet("keys", "new", "--name", "a", "--role", "anyone").exit_code == 2


def test_wrong_file_is_named_with_its_line(file: Path) -> None:
    file.write_text("\n{}\n")
    for command in (("list",), ("revoke", "0000"), ("new", *NAMED)):
        result = atsnet("keys", *command, "--file", file)
        assert result.exit_code == 4
        assert f"{file}, line 2: " in result.stderr
        assert result.stdout == ""


def test_file_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATSNET_API_KEYS_FILE", raising=False)
    assert atsnet("keys", "list").exit_code == 2


@pytest.mark.parametrize("command", ["new", "list", "revoke"])
def test_help_has_examples(command: str) -> None:
    result = atsnet("keys", command, "--help")
    assert result.exit_code == 0
    assert f"atsnet keys {command}" in result.stdout.partition("Examples")[2]
