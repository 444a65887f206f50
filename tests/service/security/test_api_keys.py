import json
from datetime import UTC, datetime, timedelta

import pytest

from service.security.keys import KeyFileError, KeyLine, KeyRing, Unknown, new_key, parse_lines
from service.security.roles import Role

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def made(name: str = "press-3", role: str = "line", expires: datetime | None = None) -> tuple[str, KeyLine]:
    return new_key(name, role, now=NOW, expires=expires)


def test_a_key_is_found_by_what_its_owner_sends() -> None:
    keys = [made("press-3", "line"), made("mes", "operator"), made("anna", "engineer")]
    ring = KeyRing(line for _, line in keys)
    assert len(ring) == 3
    found = [ring.find(key.encode(), NOW.timestamp()) for key, _ in keys]
    assert [(one.name, one.role) for one in found] == [
        ("press-3", Role.LINE),
        ("mes", Role.OPERATOR),
        ("anna", Role.ENGINEER),
    ]
    assert [one.key_id for one in found] == [line.id for _, line in keys]


def test_several_keys_of_one_name_are_valid_at_a_time() -> None:
    (old, old_line), (new, new_line) = made(), made()
    assert old != new
    ring = KeyRing([old_line, new_line])
    assert ring.find(old.encode(), NOW.timestamp()).name == ring.find(new.encode(), NOW.timestamp()).name
    revoked = old_line.model_copy(update={"revoked": NOW})
    ring = KeyRing([revoked, new_line])
    assert ring.find(new.encode(), NOW.timestamp()).key_id == new_line.id
    with pytest.raises(Unknown, match="expired or revoked"):
        ring.find(old.encode(), NOW.timestamp())


def test_what_is_no_key() -> None:
    key, line = made()
    other, _ = made()
    wrong = [
        "",
        "x",
        key[:-1],
        key + "A",
        key.upper(),
        f" {key}",
        "atsnet_" + "0" * 16 + key[23:],
        key[:24] + other[24:],
        other,
        "k" * 1_000_000,
        line.hash,
    ]
    ring = KeyRing([line])
    for one in wrong:
        with pytest.raises(Unknown, match="not known here"):
            ring.find(one.encode(), NOW.timestamp())


def test_what_is_far_too_long_is_not_even_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("service.security.keys._digest")
    with pytest.raises(Unknown, match="not known here"):
        KeyRing([]).find(b"k" * 65_536, NOW.timestamp())


def test_nobody_has_no_key() -> None:
    for ring in (KeyRing([]), KeyRing([made()[1]])):
        for sent in (b"", bytes(32), b"atsnet_" + bytes(16)):
            with pytest.raises(Unknown):
                ring.find(sent, 0.0)


def test_expiry() -> None:
    key, line = made(expires=NOW + timedelta(days=1))
    ring = KeyRing([line])
    end = (NOW + timedelta(days=1)).timestamp()
    assert ring.find(key.encode(), end - 0.001).name == "press-3"
    with pytest.raises(Unknown, match="expired or revoked"):
        ring.find(key.encode(), end)
    with pytest.raises(Unknown, match="not known"):  # nothing is told to who does not have the key
        ring.find(key.encode()[:-1], end)
    with pytest.raises(KeyFileError, match="in the past"):
        made(expires=NOW)


def test_keys_are_long_and_never_the_same() -> None:
    keys = {made()[0] for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key.split("_", 2)[2]) == 43 for key in keys)  # 256 bits in base64


def test_line_holds_no_key() -> None:
    key, line = made()
    assert key.split("_", 2)[2] not in line.as_line()
    assert parse_lines(line.as_line(), "keys") == [line]


def test_empty_lines_and_remarks_are_passed_over() -> None:
    lines = [made()[1], made()[1]]
    text = f"# keys of hall 2\n\n{lines[0].as_line()}\r\n  \n  # and\n{lines[1].as_line()}"
    assert parse_lines(text, "keys") == lines


LINE = made()[1].model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "admin"}, "role: Input should be 'monitor', 'line', 'operator' or 'engineer'"),
        ({"role": "anyone"}, "role: Input should be"),
        ({"name": "Press 3"}, "name: "),
        ({"name": "a\n"}, "name: "),
        ({"id": "0" * 15}, "id: "),
        ({"id": "0" * 16 + "\n"}, "id: "),
        ({"hash": "sha1$00$00"}, "hash: "),
        ({"created": "yesterday"}, "created: "),
        ({"expires": "2027-01-01T00:00:00"}, "expires: .*timezone"),
        ({"roles": "line"}, "roles: Extra inputs"),
    ],
)
def test_wrong_line_is_named(change: dict[str, str], message: str) -> None:
    wrong = json.dumps({**LINE, **change})
    with pytest.raises(KeyFileError, match=rf"^keys\.jsonl, line 3: {message}"):
        parse_lines(f"# keys\n{made()[1].as_line()}\n{wrong}\n", "keys.jsonl")


@pytest.mark.parametrize("content", ["{", "[]", "null", '"x"', "{}", "name: press-3"])
def test_line_that_is_no_object(content: str) -> None:
    with pytest.raises(KeyFileError, match=r"^keys, line 1: "):
        parse_lines(content, "keys")


def test_one_id_twice() -> None:
    line = made()[1]
    with pytest.raises(KeyFileError, match=f"keys, line 3: the id {line.id} is that of line 1"):
        parse_lines(f"{line.as_line()}\n\n{line.as_line()}", "keys")


def test_a_key_in_the_place_of_its_line_is_refused_and_not_repeated() -> None:
    key, _ = made()
    for content in (key, f'{{"key": "{key}"}}'):
        with pytest.raises(KeyFileError, match="line 1: this holds a key itself") as error:
            parse_lines(content, "keys")
        assert key not in str(error.value)


def test_wrong_lines_are_never_quoted() -> None:
    with pytest.raises(KeyFileError) as error:
        parse_lines('{"id": "hunter2", "name": "hunter2", "hash": "hunter2", "x": "hunter2"}', "keys")
    assert "hunter2" not in str(error.value)
