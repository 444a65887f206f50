"""API keys: what a key is, the line that stands for it in a file, and looking one up by what a client sends.

A key is `atsnet_<id>_<secret>`: the id (64 random bits) is public and names the key in files and logs, the secret has
256 random bits. Kept is only a BLAKE2b hash of the whole, with a salt of its own. A slow hash such as scrypt protects
passwords, since people choose guessable ones; nobody guesses 256 random bits, however fast the hash, and scrypt on
every request would take longer than the inspection. The salt of a line keeps one table from serving for all of them.

A key is found by its id, so that the cost does not grow with the number of keys, and its hash is compared in constant
time. A key whose id is unknown takes the same work.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.security.roles import ROLES, Role
from service.settings import SettingsError

PREFIX: Final = "atsnet_"
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16
_LONGEST: Final = 128
"""Bytes; a longer one is none of ours and is not worth hashing."""

_ALGORITHM: Final = "blake2b"


class KeyFileError(SettingsError):
    """The keys cannot be used as they are given; the message names the file and the line."""


class KeyLine(BaseModel):
    """One line of a key file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    role: Literal["monitor", "line", "operator", "engineer"]
    hash: Annotated[str, Field(pattern=r"^blake2b\$[0-9a-f]{32}\$[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    @field_validator("created", "expires", "revoked")
    @classmethod
    def _in_utc(cls, time: datetime | None) -> datetime | None:
        return None if time is None else time.astimezone(UTC)

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """What the key is worth at a time."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"

    def as_line(self) -> str:
        """The text of the line, without its end."""
        return self.model_dump_json(exclude_none=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: a key's name and role, and its id for the logs."""

    name: str
    role: Role
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """A key as requests are checked against it."""

    identity: Identity
    salt: bytes
    digest: bytes
    ends: float
    """Unix time from which on it is refused; 0 for a revoked one."""


class Unknown(Exception):  # noqa: N818
    """What was sent is no key that is valid now; the message may be told to who sent it."""


class KeyRing:
    """The keys of one moment.

    Args:
        lines: Their lines; ids are unique.
    """

    def __init__(self, lines: Iterable[KeyLine]) -> None:
        self._known = {line.id.encode(): _known(line) for line in lines}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: bytes, now: float) -> Identity:
        """Whose key it is.

        Args:
            key: As the client sent it.
            now: Unix time, s.

        Raises:
            Unknown: It is no key, or none that is valid now.
        """
        if len(key) > _LONGEST:
            raise Unknown(_NOT_KNOWN)
        known = self._known.get(key[_ID], _NOBODY)
        if not hmac.compare_digest(_digest(key, known.salt), known.digest):
            raise Unknown(_NOT_KNOWN)
        if now >= known.ends:
            raise Unknown(f"the key {known.identity.key_id} of {known.identity.name!r} is expired or revoked")
        return known.identity


_NOT_KNOWN: Final = "the API key is not known here"
_ID: Final = slice(len(PREFIX), len(PREFIX) + 2 * _ID_BYTES)


def _digest(key: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=32, salt=salt, person=b"atsnet api key").digest()


_NOBODY: Final = _Known(Identity("nobody", Role.ANYONE), bytes(_SALT_BYTES), bytes(32), 0.0)
"""Stands for ids that are not known: no text is found that has this hash, and it has ended anyway."""


def _known(line: KeyLine) -> _Known:
    _, salt, digest = line.hash.split("$")
    ends = float("inf") if line.expires is None else line.expires.timestamp()
    return _Known(
        Identity(line.name, ROLES[line.role], line.id),
        bytes.fromhex(salt),
        bytes.fromhex(digest),
        0.0 if line.revoked is not None else ends,
    )


def new_key(name: str, role: str, *, now: datetime, expires: datetime | None = None) -> tuple[str, KeyLine]:
    """Make a key: what its owner gets, once, and the line that is kept.

    Raises:
        KeyFileError: Name, role or time cannot be used.
    """
    key_id = secrets.token_hex(_ID_BYTES)
    key = f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    salt = secrets.token_bytes(_SALT_BYTES)
    if expires is not None and expires <= now:
        raise KeyFileError(f"expires: {expires.isoformat()} is in the past")
    fields = {
        "id": key_id,
        "name": name,
        "role": role,
        "hash": f"{_ALGORITHM}${salt.hex()}${_digest(key.encode(), salt).hex()}",
        "created": now.replace(microsecond=0),
        "expires": expires,
    }
    return key, _validated(fields, "the new key")


def parse_lines(text: str, source: str) -> list[KeyLine]:
    """Read the lines of keys, of a file or a variable; empty lines and those that begin with # are passed over.

    Raises:
        KeyFileError: A line is wrong, or two have one id; the message names `source` and the line, and never quotes it.
    """
    lines: list[KeyLine] = []
    numbers: dict[str, int] = {}
    for number, content in enumerate(text.splitlines(), 1):
        if not content.strip() or content.lstrip().startswith("#"):
            continue
        where = f"{source}, line {number}"
        line = _validated(_json(content, where), where)
        if line.id in numbers:
            raise KeyFileError(f"{where}: the id {line.id} is that of line {numbers[line.id]}")
        numbers[line.id] = number
        lines.append(line)
    return lines


def _json(content: str, where: str) -> Any:
    if re.search(PREFIX + "[0-9a-f]{16}_", content):
        raise KeyFileError(
            f"{where}: this holds a key itself, which only its owner may have; put the line with its hash there, "
            "which `atsnet keys new` prints, and make a new key: this one may have been read"
        )
    try:
        return json.loads(content)
    except ValueError as error:
        raise KeyFileError(f"{where}: not a JSON object, such as `atsnet keys new` prints: {error}") from None


def _validated(fields: Any, where: str) -> KeyLine:
    try:
        return KeyLine.model_validate(fields)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'line'}: {item['msg']}" for item in error.errors()
        )
        raise KeyFileError(f"{where}: {wrong}") from None
