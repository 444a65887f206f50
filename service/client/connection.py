"""Where the service is, and who the client is to it."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NotRequired, TypedDict

import httpx

from service.client.errors import ServiceError
from service.client.retries import Retries

_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=64)
"""No part waits for another one's connection; how many inspections may be under way is for the service to say."""

TIMEOUT_S: Final = 60.0
"""Longest wait for a call that names no deadline of its own, in seconds."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How an `https` service is known, and how it knows this client; PEM files."""

    ca: Path | None = None
    """Certificates that the service's is signed by; the system's without."""
    certificate: Path | None = None
    """The client's own, with its chain."""
    key: Path | None = None
    """Its private key; in the certificate's file without."""
    password: str | None = field(default=None, repr=False)
    """Of the private key."""

    def context(self) -> ssl.SSLContext:
        """What the connections are made with.

        Raises:
            ServiceError: A file is missing, or no certificate or key.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, self.password)
        except OSError as error:  # SSLError is one too
            raise ServiceError(f"{self} cannot be used: {error}") from error
        return context


SYSTEM_TLS: Final = Tls()


class ClientOptions(TypedDict):
    """How to talk to a service; all of it may be left out."""

    timeout_s: NotRequired[float]
    """Longest wait of a call that names no deadline, retries included; 60 s without."""
    retries: NotRequired[Retries]
    api_key: NotRequired[str | None]
    """Sent as `Authorization: Bearer`."""
    tls: NotRequired[Tls]
    transport: NotRequired[httpx.AsyncBaseTransport | None]
    """What carries the requests in place of the network; for tests."""


def open_http(url: str, api_key: str | None, tls: Tls, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """An HTTP client of the service; it follows no redirects, so that the key goes nowhere else.

    Raises:
        ServiceError: The address is none, or a certificate cannot be used.
    """
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ServiceError(f"{url} is no address: {error}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise ServiceError(f"{url} is no address; one is http://127.0.0.1:8000")
    headers = {"User-Agent": "atsnet-client", "Accept-Encoding": "identity"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key.strip()}"
    # The service is on this line's network: a proxy from the environment would be a detour at best.
    return httpx.AsyncClient(
        base_url=address,
        headers=headers,
        verify=tls.context(),
        transport=transport,
        limits=_LIMITS,
        trust_env=False,
    )
