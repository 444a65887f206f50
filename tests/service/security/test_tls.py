import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from made_certificates import A_YEAR, NOW, Issued, issue, pem
from serving import wait_until

from service.security.settings import SecuritySettings
from service.security.tls import Tls, TlsError, load_tls


@pytest.fixture(scope="module")
def station(authority: Issued) -> Issued:
    return issue("station", authority)


def served_with(issued: Issued, folder: Path, **more: Any) -> SecuritySettings:
    certificate, key = issued.write(folder)
    return SecuritySettings(ssl_certfile=certificate, ssl_keyfile=key, **more)


def loaded(settings: SecuritySettings) -> Tls:
    tls = load_tls(settings)
    assert tls is not None
    return tls


def test_plain_http_is_the_default() -> None:
    assert load_tls(SecuritySettings()) is None


@pytest.mark.parametrize(
    "option", [{"ssl_keyfile": "k.pem"}, {"ssl_ca_certs": "ca.pem"}, {"ssl_keyfile_password": "p"}]
)
def test_options_without_a_certificate(option: dict[str, Any]) -> None:
    with pytest.raises(TlsError, match=f"{next(iter(option))} is set, but ssl_certfile is not"):
        load_tls(SecuritySettings(**option))


def test_good_certificate(station: Issued, tmp_path: Path) -> None:
    tls = loaded(served_with(station, tmp_path))
    assert tls.expires == (NOW + A_YEAR).replace(microsecond=0)
    assert "ssl_cert_reqs" not in tls.options


def test_certificate_and_key_in_one_file(station: Issued, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(station.key + station.certificate)
    assert loaded(SecuritySettings(ssl_certfile=both)).options["ssl_certfile"] == both


def test_client_certificates_are_required_where_authorities_are_given(
    station: Issued, authority: Issued, tmp_path: Path
) -> None:
    authorities, _ = authority.write(tmp_path)
    tls = loaded(served_with(station, tmp_path, ssl_ca_certs=authorities))
    assert tls.options["ssl_cert_reqs"] is ssl.CERT_REQUIRED


@pytest.mark.parametrize("option", ["ssl_certfile", "ssl_keyfile", "ssl_ca_certs"])
def test_missing_file_is_named(station: Issued, tmp_path: Path, option: str) -> None:
    missing = tmp_path / "missing.pem"
    settings = served_with(station, tmp_path).model_copy(update={option: missing})
    with pytest.raises(TlsError, match=f"{missing} cannot be read: No such file"):
        load_tls(settings)


def test_key_of_another_certificate(station: Issued, tmp_path: Path) -> None:
    certificate, key = station.write(tmp_path)
    key.write_text(issue("another").key)
    with pytest.raises(TlsError, match=f"{certificate} with the key {key}: the key is not that of the certificate"):
        load_tls(SecuritySettings(ssl_certfile=certificate, ssl_keyfile=key))


def test_certificate_that_is_none(station: Issued, tmp_path: Path) -> None:
    certificate, key = station.write(tmp_path)
    certificate.write_text("hello")
    with pytest.raises(TlsError, match=f"{certificate}.*not a PEM certificate"):
        load_tls(SecuritySettings(ssl_certfile=certificate, ssl_keyfile=key))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ends": NOW - timedelta(minutes=1)}, "the certificate has expired"),
        ({"starts": NOW + timedelta(days=2)}, "is not valid yet; is this machine's clock right"),
        ({"client_only": True}, "clients would refuse the certificate: .*purpose"),
    ],
)
def test_certificates_that_clients_would_refuse(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    settings = served_with(issue("station", **options), tmp_path)
    with pytest.raises(TlsError, match=f"{settings.ssl_certfile}: .*{message}"):
        load_tls(settings)


@pytest.mark.parametrize("password", [None, "wrong"])
def test_key_that_needs_another_password(station: Issued, tmp_path: Path, password: str | None) -> None:
    certificate, key = station.write(tmp_path)
    head = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,000102030405060708090A0B0C0D0E0F\n\n"
    key.write_text(pem("EC PRIVATE KEY", bytes(128)).replace("KEY-----\n", f"KEY-----\n{head}", 1))
    settings = SecuritySettings(ssl_certfile=certificate, ssl_keyfile=key, ssl_keyfile_password=password)
    with pytest.raises(TlsError, match=f"{key}: the password of the key is wrong or missing"):
        load_tls(settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "hello", "not PEM certificates"),
        (lambda: issue("no authority").certificate, "none of its certificates is that of an authority"),
        (lambda: issue("old", authority=True, ends=NOW - A_YEAR / 2).certificate, "every authority in it has expired"),
    ],
)
def test_unusable_authorities(station: Issued, tmp_path: Path, make: Callable[[], str], message: str) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_text(make())
    with pytest.raises(TlsError, match=f"{authorities}: {message}"):
        load_tls(served_with(station, tmp_path, ssl_ca_certs=authorities))


async def hello(scope: Any, _receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextmanager
def serving_tls(options: dict[str, Any]) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(hello, port=0, lifespan="off", log_config=None, **options))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def client_context(authority: Issued, folder: Path, own: Issued | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.write(folder)[0]))
    if own is not None:
        context.load_cert_chain(*own.write(folder))
    return context


def test_only_clients_with_a_certificate_of_the_authority_are_served(
    station: Issued, authority: Issued, tmp_path: Path
) -> None:
    tls = loaded(served_with(station, tmp_path, ssl_ca_certs=authority.write(tmp_path)[0]))
    with serving_tls(tls.options) as url:
        known = client_context(authority, tmp_path, issue("press-3", authority))
        assert httpx.get(url, verify=known, trust_env=False).text == "hello"
        for stranger in (None, issue("press-3"), issue("late", authority, ends=NOW - timedelta(minutes=1))):
            context = client_context(authority, tmp_path, stranger)
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=context, trust_env=False)
