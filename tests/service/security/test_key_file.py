import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.security.key_file import LOOK_EVERY_S, KeySource, add, read_lines, revoke
from service.security.keys import KeyFileError, KeyLine, Unknown, new_key

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_on(self) -> None:
        self.now += LOOK_EVERY_S


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put(file: Path, name: str = "press-3") -> tuple[str, KeyLine]:
    key, line = new_key(name, "line", now=NOW)
    add(file, line)
    return key, line


def knows(source: KeySource, key: str) -> bool:
    try:
        source.ring().find(key.encode(), NOW.timestamp())
    except Unknown:
        return False
    return True


def test_keys_come_and_go_while_the_service_runs(file: Path, clock: Clock) -> None:
    first, first_line = put(file)
    source = KeySource(file, None, clock)
    second, _ = put(file)
    assert (knows(source, first), knows(source, second)) == (True, False)
    clock.pass_on()
    assert (knows(source, first), knows(source, second)) == (True, True)
    revoke(file, first_line.id, NOW)
    clock.pass_on()
    assert (knows(source, first), knows(source, second)) == (False, True)


def test_change_of_the_same_length_within_one_tick_of_the_clock_is_seen(file: Path, clock: Clock) -> None:
    put(file)
    status = file.stat()
    source = KeySource(file, None, clock)
    key, line = new_key("press-4", "line", now=NOW)
    other = file.with_name("other")
    other.write_text(line.as_line() + "\n")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert other.stat().st_size == status.st_size
    other.replace(file)
    clock.pass_on()
    assert knows(source, key)


@pytest.mark.parametrize("damage", ["broken", "gone", "open to all"])
def test_what_was_known_stays_valid_when_the_file_becomes_unusable(file: Path, clock: Clock, damage: str) -> None:
    key, _ = put(file)
    good = file.read_text()
    source = KeySource(file, None, clock)
    if damage == "broken":
        file.write_text(good + "{")
    elif damage == "gone":
        file.unlink()
    else:
        file.chmod(0o666)
    with capture_logs() as logs:
        for _ in range(3):
            clock.pass_on()
            assert knows(source, key)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("keys_not_read", "error")]
    assert str(file) in logs[0]["detail"]
    file.unlink(missing_ok=True)
    file.write_text(good)
    another, _ = put(file)
    clock.pass_on()
    assert knows(source, key)
    assert knows(source, another)


@pytest.mark.parametrize("content", ["{", '{"id": "x"}'])
def test_service_does_not_start_with_a_wrong_file(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(KeyFileError, match=f"{file}, line 1: "):
        KeySource(file, None)


def test_service_does_not_start_without_the_file(file: Path) -> None:
    with pytest.raises(KeyFileError, match=f"{file} cannot be read: No such file"):
        KeySource(file, None)


def test_bytes_that_are_no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match="no text in UTF-8"):
        KeySource(file, None)


def test_keys_from_a_variable_beside_those_of_the_file(file: Path) -> None:
    of_file, line = put(file)
    of_variable, other = new_key("mes", "operator", now=NOW)
    source = KeySource(file, f"{other.as_line()}\n")
    assert knows(source, of_file)
    assert knows(source, of_variable)
    with pytest.raises(KeyFileError, match=f"{line.id} is in ATSNET_API_KEYS as well"):
        KeySource(file, line.as_line())
    with pytest.raises(KeyFileError, match="ATSNET_API_KEYS, line 1: "):
        KeySource(None, "secret")


@pytest.mark.parametrize("given", ["", "\n", "# none yet"])
def test_no_key_at_all_lets_nobody_in_and_says_so(given: str) -> None:
    with capture_logs() as logs:
        source = KeySource(None, given)
    assert [entry["event"] for entry in logs] == ["no_keys"]
    assert not knows(source, new_key("a", "line", now=NOW)[0])


def test_file_that_others_can_write_is_refused(file: Path) -> None:
    put(file)
    file.chmod(0o602)
    with pytest.raises(KeyFileError, match=f"chmod 600 {file}"):
        KeySource(file, None)


@pytest.mark.parametrize(("mode", "events"), [(0o600, []), (0o640, []), (0o644, ["key_file_readable"])])
def test_file_that_others_can_read_is_warned_of(file: Path, mode: int, events: list[str]) -> None:
    put(file)
    file.chmod(mode)
    with capture_logs() as logs:
        KeySource(file, None)
    assert [entry["event"] for entry in logs] == events


def test_new_file_is_for_its_owner_alone(file: Path) -> None:
    previous = os.umask(0)
    try:
        put(file)
    finally:
        os.umask(previous)
    assert file.stat().st_mode & 0o777 == 0o600


def test_changes_keep_mode_remarks_and_other_lines(file: Path) -> None:
    kept = [put(file)[1] for _ in range(2)]
    file.write_text(f"# hall 2, {kept[0].id}\n" + file.read_text().rstrip("\n"))
    file.chmod(0o640)
    added = put(file)[1]
    before = file.read_text().splitlines()
    revoked = revoke(file, kept[0].id, NOW)
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.read_text().splitlines() == [before[0], revoked.as_line(), *before[2:]]
    assert read_lines(file) == [revoked, kept[1], added]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_revoking_again_changes_nothing(file: Path) -> None:
    _, line = put(file)
    revoke(file, line.id, NOW)
    before = file.stat()
    assert revoke(file, line.id, datetime(2030, 1, 1, tzinfo=UTC)).revoked == NOW
    assert file.stat().st_ino == before.st_ino


def test_revoking_what_is_not_there(file: Path) -> None:
    put(file)
    with pytest.raises(KeyFileError, match="there is no key '0000'"):
        revoke(file, "0000", NOW)
    with pytest.raises(KeyFileError, match="cannot be read"):
        revoke(file.with_name("none"), "0000", NOW)


def test_link_stays_a_link(file: Path) -> None:
    put(file)
    link = file.with_name("link")
    link.symlink_to(file.name)
    put(link)
    assert link.is_symlink()
    assert len(read_lines(file)) == 2


def test_wrong_file_is_not_added_to(file: Path) -> None:
    file.write_text("{")
    with pytest.raises(KeyFileError, match="line 1"):
        put(file)
    assert file.read_text() == "{"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_one_change_at_a_time(file: Path) -> None:
    put(file)
    file.with_name("keys.jsonl.new").touch()
    with pytest.raises(KeyFileError, match=r"keys\.jsonl\.new: it is being changed by someone else"):
        put(file)
    assert file.with_name("keys.jsonl.new").exists()


def test_no_change_is_lost_when_many_are_made_at_once(file: Path) -> None:
    put(file)
    done: list[str] = []

    def work(name: str) -> None:
        for _ in range(5):
            try:
                done.append(put(file, name)[1].id)
            except KeyFileError as error:
                assert "by someone else" in str(error)  # noqa: PT017

    threads = [threading.Thread(target=work, args=(f"n{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done
    assert {line.id for line in read_lines(file)[1:]} == set(done)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be changed: No such file"):
        put(tmp_path / "none" / "keys.jsonl")
