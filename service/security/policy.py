"""Whether a service may start as it is set up: open only where nobody else can reach it, or where somebody said so."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from service.security.loopback import is_local
from service.security.settings import SecuritySettings
from service.security.tls import load_tls
from service.settings import SettingsError

log = structlog.get_logger(__name__)

_RENEW_WITHIN: Final = timedelta(days=30)


class PolicyError(SettingsError):
    """The service would be open to whoever reaches it, and nobody said that it should be."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How the service may be served."""

    open: bool
    """Nobody needs a key."""
    local: bool
    """Only this machine reaches it."""
    tls: dict[str, Any]
    """TLS options for `uvicorn.Config`; empty for plain HTTP."""

    @property
    def scheme(self) -> str:
        """Of the service's address."""
        return "https" if self.tls else "http"


def check(settings: SecuritySettings, host: str) -> Policy:
    """Check the settings before anything listens; what is allowed but unwise is logged as a warning.

    Args:
        settings: Who may talk to it and over what.
        host: Name or address to listen on.

    Raises:
        PolicyError: Other machines reach the address, there are no keys, and `allow_open` is not set.
        TlsError: The certificate, its key or the authorities cannot be used.
    """
    local = is_local(host)
    tls = load_tls(settings)
    if not local and not settings.has_keys:
        if not settings.allow_open:
            raise PolicyError(
                f"{host} can be reached from other machines, and there are no API keys: make one (`atsnet keys new`) "
                "and name its file (ATSNET_API_KEYS_FILE), or listen on 127.0.0.1, or say that everyone on the "
                "network may do everything (ATSNET_ALLOW_OPEN=true)"
            )
        log.warning("open_to_the_network", host=host, detail="whoever reaches this address may do everything")
    if not local and settings.has_keys and tls is None:
        log.warning("keys_in_the_clear", host=host, detail="without TLS, whoever listens on the network reads the keys")
    if tls is not None and tls.expires - datetime.now(UTC) < _RENEW_WITHIN:
        log.warning("certificate_expires", file=str(settings.ssl_certfile), expires=tls.expires.isoformat())
    return Policy(not settings.has_keys, local, {} if tls is None else tls.options)
