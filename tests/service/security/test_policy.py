from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from made_certificates import NOW, issue
from pydantic import ValidationError
from structlog.testing import capture_logs

from service.security.loopback import is_local, is_loopback
from service.security.policy import Policy, PolicyError, check
from service.security.settings import SecuritySettings
from service.security.tls import TlsError
from service.settings import SettingsError

ANYWHERE = ["0.0.0.0", "::", "192.0.2.7", "station.invalid", ""]
HERE = ["127.0.0.1", "127.8.9.10", "::1", "localhost"]


def checked(host: str, **given: Any) -> tuple[Policy, list[str]]:
    with capture_logs() as logs:
        policy = check(SecuritySettings(**given), host)
    return policy, [entry["event"] for entry in logs]


@pytest.mark.parametrize("host", HERE)
def test_open_where_nobody_else_comes(host: str) -> None:
    policy, warnings = checked(host)
    assert (policy.open, policy.local, policy.scheme, warnings) == (True, True, "http", [])


@pytest.mark.parametrize("host", ANYWHERE)
def test_not_open_anywhere_else(host: str) -> None:
    with pytest.raises(PolicyError, match="can be reached from other machines, and there are no API keys"):
        checked(host)
    assert issubclass(PolicyError, SettingsError)


@pytest.mark.parametrize("host", ANYWHERE)
def test_unless_told(host: str) -> None:
    policy, warnings = checked(host, allow_open=True)
    assert (policy.open, policy.local, warnings) == (True, False, ["open_to_the_network"])


@pytest.mark.parametrize("keys", [{"api_keys_file": "keys.jsonl"}, {"api_keys": "..."}, {"api_keys": ""}])
@pytest.mark.parametrize("allow_open", [False, True])
def test_with_keys_it_is_closed_everywhere(keys: dict[str, str], allow_open: bool) -> None:
    for host, warnings in (("127.0.0.1", []), ("0.0.0.0", ["keys_in_the_clear"])):
        policy, warned = checked(host, allow_open=allow_open, **keys)
        assert not policy.open
        assert warned == warnings


def test_tls_alone_is_no_key(tmp_path: Path) -> None:
    certificate, key = issue("station").write(tmp_path)
    tls = {"ssl_certfile": certificate, "ssl_keyfile": key}
    with pytest.raises(PolicyError):
        checked("0.0.0.0", **tls)
    authorities, _ = issue("authority", authority=True).write(tmp_path)
    with pytest.raises(PolicyError):
        checked("0.0.0.0", **tls, ssl_ca_certs=authorities)
    policy, warnings = checked("0.0.0.0", **tls, api_keys="x")
    assert (policy.scheme, policy.tls["ssl_certfile"], warnings) == ("https", certificate, [])


def test_unusable_certificate_stops_the_start() -> None:
    with pytest.raises(TlsError):
        checked("127.0.0.1", ssl_certfile="missing.pem")


@pytest.mark.parametrize(("days", "warnings"), [(29, ["certificate_expires"]), (31, [])])
def test_certificate_that_ends_soon(tmp_path: Path, days: int, warnings: list[str]) -> None:
    certificate, key = issue("station", ends=NOW + timedelta(days=days)).write(tmp_path)
    assert checked("127.0.0.1", ssl_certfile=certificate, ssl_keyfile=key)[1] == warnings


def test_name_with_one_address_elsewhere_is_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [(2, 1, 6, "", ("127.0.0.1", 0)), (2, 1, 6, "", ("192.0.2.7", 0))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: addresses)
    assert not is_local("both")
    addresses.pop()
    assert is_local("both")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("::ffff:127.0.0.1", True), ("::ffff:192.0.2.7", False), ("fe80::1%lo", False), ("localhost", False), ("", False)],
)
def test_loopback_addresses(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("given", [{"rate_limit": 0}, {"rate_limit": -1}, {"rate_burst": 0}, {"rate_limit": "nan"}])
def test_limits_that_are_none(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SecuritySettings(**given)


def test_password_is_not_shown() -> None:
    assert "hunter2" not in repr(SecuritySettings(ssl_keyfile_password="hunter2"))
