"""HTTPS and client certificates: looked at before the service starts, so that what is wrong is said by name."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from service.security.settings import SecuritySettings
from service.settings import SettingsError

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
"""Of OpenSSL's X509_verify_cert_error."""

_HANDSHAKE_STEPS: Final = 10


class TlsError(SettingsError):
    """The certificate, its key or the authorities cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What HTTPS is served with; made by `load_tls` alone, which has tried it."""

    expires: datetime
    """When the service's certificate ends."""
    options: dict[str, Any]
    """For `uvicorn.Config`."""


def load_tls(settings: SecuritySettings) -> Tls | None:
    """Check what HTTPS is to be served with; None where it is not asked for.

    Raises:
        TlsError: A file is missing or no PEM, the key does not fit the certificate, a certificate is not valid today,
            or an option comes without the one that it needs.
    """
    certificate, authorities = settings.ssl_certfile, settings.ssl_ca_certs
    if certificate is None:
        for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
            if getattr(settings, name) is not None:
                raise TlsError(f"{name} is set, but ssl_certfile is not; HTTPS needs a certificate")
        return None
    server = _server_context(certificate, settings.ssl_keyfile, settings.ssl_keyfile_password)
    expires = _try_certificate(server, certificate)
    options: dict[str, Any] = {
        "ssl_certfile": certificate,
        "ssl_keyfile": settings.ssl_keyfile,
        "ssl_keyfile_password": settings.ssl_keyfile_password,
    }
    if authorities is not None:
        _check_authorities(authorities)
        options |= {"ssl_ca_certs": authorities, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return Tls(expires, options)


def _server_context(certificate: Path, key: Path | None, password: str | None) -> ssl.SSLContext:
    for file in filter(None, (certificate, key)):
        _check_readable(file)
    asked = False

    def tell() -> str:
        nonlocal asked
        asked = True
        return password or ""  # never None, or OpenSSL would ask on the terminal

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    where = str(certificate) if key is None else f"{certificate} with the key {key}"
    try:
        context.load_cert_chain(certificate, key, tell)
    except ssl.SSLError as error:
        if asked:
            raise TlsError(f"{key or certificate}: the password of the key is wrong or missing") from error
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{where}: the key is not that of the certificate") from error
        raise TlsError(f"{where}: not a PEM certificate and its key") from error
    return context


def _try_certificate(server: ssl.SSLContext, certificate: Path) -> datetime:
    """Shake hands with ourselves, trusting nothing but the certificate: what clients would object to comes out."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_HANDSHAKE_STEPS):
        try:
            for side in (theirs, ours):
                _advance(side)
        except ssl.SSLCertVerificationError as error:
            raise TlsError(f"{certificate}: {_objection(error)}") from error
        except ssl.SSLError as error:
            raise TlsError(f"{certificate}: cannot be served ({error.reason or error})") from error
        shown = theirs.getpeercert() if theirs.version() else None
        if shown:
            return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
    raise TlsError(f"{certificate}: cannot be served: a handshake with it does not end")


def _advance(side: ssl.SSLObject) -> None:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return


def _objection(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return "the certificate has expired"
    if error.verify_code == _NOT_YET_VALID:
        return "the certificate is not valid yet; is this machine's clock right?"
    return f"clients would refuse the certificate: {error.verify_message}"


def _check_authorities(authorities: Path) -> None:
    _check_readable(authorities)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise TlsError(f"{authorities}: not PEM certificates") from error
    now = datetime.now(UTC).timestamp()
    found = context.get_ca_certs()
    if not found:
        raise TlsError(f"{authorities}: none of its certificates is that of an authority (CA:TRUE)")
    if all(ssl.cert_time_to_seconds(str(one["notAfter"])) <= now for one in found):
        raise TlsError(f"{authorities}: every authority in it has expired, so that no client could connect")


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise TlsError(f"{file} cannot be read: {error.strerror}") from error
