"""Certificates and keys for tests, made here: P-256 and X.509 by hand, so that no key lies in the repository."""

import base64
import hashlib
import secrets
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

Point = tuple[int, int] | None

EC_KEY, P256 = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06082a8648ce3d030107")
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
COMMON_NAME, BASIC_CONSTRAINTS, ALT_NAME = (bytes.fromhex(oid) for oid in ("0603550403", "0603551d13", "0603551d11"))
EXTENDED_KEY_USAGE, CLIENT_AUTH = bytes.fromhex("0603551d25"), bytes.fromhex("06082b06010505070302")

NOW = datetime.now(UTC)
A_YEAR = timedelta(days=365)


def add(a: Point, b: Point) -> Point:
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    slope = (3 * a[0] ** 2 - 3) * pow(2 * a[1], -1, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope**2 - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(number: int) -> tuple[int, int]:
    total: Point = None
    power: Point = G
    while number:
        if number & 1:
            total = add(total, power)
        power = add(power, power)
        number >>= 1
    assert total is not None
    return total


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8 or 1, "big")
    return bytes([tag]) + (length if len(body) < 128 else bytes([128 + len(length)]) + length) + body


def integer(number: int) -> bytes:
    return der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def pem(label: str, data: bytes) -> str:
    text = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 64))
    return f"-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"


@dataclass
class Issued:
    """A certificate with its key."""

    name: str
    secret: int
    certificate: str

    @property
    def key(self) -> str:
        return pem("EC PRIVATE KEY", der(48, integer(1), der(4, self.secret.to_bytes(32, "big")), der(0xA0, P256)))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The files of the certificate and of the key."""
        certificate, key = folder / f"{self.name}.pem", folder / f"{self.name}.key"
        certificate.write_text(self.certificate)
        key.write_text(self.key)
        return certificate, key


def issue(
    name: str,
    by: Issued | None = None,
    *,
    authority: bool = False,
    client_only: bool = False,
    starts: datetime = NOW - A_YEAR,
    ends: datetime = NOW + A_YEAR,
) -> Issued:
    """Make a certificate; signed by itself where no authority is given."""
    secret = secrets.randbelow(N - 1) + 1
    x, y = multiply(secret)
    point = b"\0\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    extensions = [der(48, BASIC_CONSTRAINTS, der(1, b"\xff"), der(4, der(48, der(1, b"\xff") if authority else b"")))]
    if not authority:
        names = der(48, der(0x82, b"localhost"), der(0x87, bytes([127, 0, 0, 1])))
        extensions.append(der(48, ALT_NAME, der(4, names)))
    if client_only:
        extensions.append(der(48, EXTENDED_KEY_USAGE, der(4, der(48, CLIENT_AUTH))))
    body = der(
        48,
        der(0xA0, integer(2)),
        integer(secrets.randbits(64)),
        ECDSA_SHA256,
        distinguished(by.name if by else name),
        der(48, *(der(0x18, f"{time:%Y%m%d%H%M%SZ}".encode()) for time in (starts, ends))),
        distinguished(name),
        der(48, der(48, EC_KEY, P256), der(3, point)),
        der(0xA3, der(48, *extensions)),
    )
    signature = sign(body, by.secret if by else secret)
    return Issued(name, secret, pem("CERTIFICATE", der(48, body, ECDSA_SHA256, der(3, b"\0", signature))))


def distinguished(name: str) -> bytes:
    return der(48, der(49, der(48, COMMON_NAME, der(12, name.encode()))))


def sign(body: bytes, secret: int) -> bytes:
    number = secrets.randbelow(N - 1) + 1
    r = multiply(number)[0] % N
    s = pow(number, -1, N) * (int.from_bytes(hashlib.sha256(body).digest(), "big") + r * secret) % N
    return der(48, integer(r), integer(s))
