"""The file that holds the lines of keys: read, read again when it changes, and changed by the command."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from service.security.keys import KeyFileError, KeyLine, KeyRing, parse_lines

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
"""How long a change of the file may go unnoticed."""

_MODE: Final = 0o600

_Signature = tuple[int, int, int, int]


class KeySource:
    """The keys that are valid now, from a file, a variable or both. Belongs to one thread.

    A file that was changed is read again, so that keys come and go without a restart. If it has become unusable, the
    keys that it held before stay valid and the log says so: a mistake in it neither stops a line nor opens the service.

    Args:
        file: Where the lines are.
        given: Lines themselves, from the environment.
        clock: Seconds, monotonic; says when to look at the file again.

    Raises:
        KeyFileError: The lines cannot be used.
    """

    def __init__(self, file: Path | None, given: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._given = parse_lines(given, "ATSNET_API_KEYS") if given else []
        self._clock = clock
        self._signature = None if file is None else _signature(file)
        self._ring = self._read()
        self._look_at = clock() + LOOK_EVERY_S
        if not len(self._ring):
            log.warning("no_keys", detail="there is no key, so that nobody is let in; `atsnet keys new` makes one")

    def ring(self) -> KeyRing:
        """The keys as they are now."""
        if self._file is not None and self._clock() >= self._look_at:
            self._look(self._file)
            self._look_at = self._clock() + LOOK_EVERY_S
        return self._ring

    def _look(self, file: Path) -> None:
        try:
            signature = _signature(file)
        except KeyFileError as error:
            if self._signature is not None:
                log.error("keys_not_read", detail=f"{error}; the keys from before stay valid")
            self._signature = None
            return
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._ring = self._read()
        except KeyFileError as error:
            log.error("keys_not_read", detail=f"{error}; the keys from before stay valid")
        else:
            log.info("keys_read", file=str(file), keys=len(self._ring))

    def _read(self) -> KeyRing:
        if self._file is None:
            return KeyRing(self._given)
        _check_mode(self._file)
        lines = read_lines(self._file)
        twice = {line.id for line in lines} & {line.id for line in self._given}
        if twice:
            raise KeyFileError(f"{self._file}: the id {min(twice)} is in ATSNET_API_KEYS as well")
        return KeyRing([*self._given, *lines])


def read_lines(file: Path) -> list[KeyLine]:
    """The keys of a file.

    Raises:
        KeyFileError: It cannot be read, or one of its lines is wrong.
    """
    return parse_lines(_text(file), str(file))


def add(file: Path, line: KeyLine) -> None:
    """Put a line at the end of a file, which is made for its owner alone where there is none.

    Raises:
        KeyFileError: It cannot be read or written.
    """
    with _change(file) as changed:
        before = _text(file) if file.exists() else ""
        parse_lines(before, str(file))
        separator = "\n" if before and not before.endswith("\n") else ""
        changed(f"{before}{separator}{line.as_line()}\n")


def revoke(file: Path, key_id: str, now: datetime) -> KeyLine:
    """Mark a key as revoked; its line stays, so that logs can still be read. One revoked before stays as it is.

    Returns:
        The line as it is now.

    Raises:
        KeyFileError: It cannot be read or written, or holds no such key.
    """
    with _change(file) as changed:
        text = _text(file)
        known = {line.id: line for line in parse_lines(text, str(file))}
        if key_id not in known:
            raise KeyFileError(f"{file}: there is no key {key_id!r}; `atsnet keys list` shows those that there are")
        line = known[key_id]
        if line.revoked is None:
            line = KeyLine.model_validate({**line.model_dump(), "revoked": now.replace(microsecond=0)})
            changed("".join(f"{line.as_line() if _holds(old, key_id) else old}\n" for old in text.splitlines()))
    return line


def _holds(content: str, key_id: str) -> bool:
    return any(line.id == key_id for line in parse_lines(content, ""))


@contextmanager
def _change(file: Path) -> Iterator[Callable[[str], None]]:
    """Change a file at once or not at all, and one after the other: the file of the new content is the lock."""
    target = Path(os.path.realpath(file))
    new = target.with_name(f"{target.name}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError as error:
        raise KeyFileError(f"{new}: it is being changed by someone else; if it is not, remove that file") from error
    except OSError as error:
        raise KeyFileError(f"{file} cannot be changed: {error.strerror}") from error
    replaced = False
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:

            def write(text: str) -> None:
                nonlocal replaced
                stream.write(text)
                stream.flush()
                if target.exists():
                    _like(target, new)
                os.fsync(stream.fileno())
                new.replace(target)
                replaced = True
                _sync_folder(target.parent)

            yield write
    except OSError as error:
        raise KeyFileError(f"{file} cannot be changed: {error.strerror}") from error
    finally:
        if not replaced:
            new.unlink(missing_ok=True)


def _like(old: Path, new: Path) -> None:
    # Who could read the old one must be able to read the new one: the service seldom runs as who changes its keys.
    status = old.stat()
    if os.name == "posix" and (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(new, status.st_uid, status.st_gid)
    new.chmod(stat.S_IMODE(status.st_mode))


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere, folders cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise KeyFileError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{file} is no text in UTF-8: {error}") from error


def _signature(file: Path) -> _Signature:
    status = _status(file)
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def _status(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise KeyFileError(f"{file} cannot be read: {error.strerror}") from error


def _check_mode(file: Path) -> None:
    if os.name != "posix":
        return
    mode = _status(file).st_mode
    if mode & stat.S_IWOTH:
        raise KeyFileError(f"{file} can be written by everyone on this machine, who could add a key: chmod 600 {file}")
    if mode & stat.S_IROTH:
        log.warning("key_file_readable", detail=f"{file} can be read by everyone on this machine: chmod 600 {file}")
