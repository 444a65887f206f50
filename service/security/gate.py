"""The gate of every request: who asks, whether they may, and whether not too often."""

import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from service.problems import FORBIDDEN, UNAUTHORIZED, Problem
from service.security.key_file import KeySource
from service.security.keys import Identity, KeyRing, Unknown
from service.security.origin import check_host, check_origin
from service.security.policy import Policy
from service.security.rate_limit import RateLimiter, network_of
from service.security.roles import Role, least_role
from service.security.settings import SecuritySettings

log = structlog.get_logger(__name__)

_BEARER: Final = b"bearer "

EVERYONE: Final = Identity("everyone", Role.ENGINEER)
"""Who asks where there are no keys."""
NOBODY: Final = Identity("nobody", Role.ANYONE)
"""Who asks for what takes no key, and shows none."""


class Keys(Protocol):
    """Knows the keys of the moment; see `key_file.KeySource`."""

    def ring(self) -> KeyRing:
        """The keys as they are now."""


class Gate:
    """Lets requests in or refuses them. Belongs to one thread; a check waits for nothing.

    Args:
        keys: The keys; None lets everyone in.
        limiter: How often a key, or an address where there are no keys, may ask; None for no limit.
        only_local_hosts: Refuse requests to other names than this machine's own: for a service without keys that only
            this machine reaches, and that no page of the web is to reach through a name of its own.
        clock: Unix time, s; says which keys have expired.
    """

    def __init__(
        self,
        keys: Keys | None,
        limiter: RateLimiter | None = None,
        *,
        only_local_hosts: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._only_local_hosts = only_local_hosts
        self._clock = clock

    @property
    def open(self) -> bool:
        """Whether everyone is let in."""
        return self._keys is None

    def check(
        self,
        method: str,
        path: str,
        authorization: bytes | None,
        x_api_key: bytes | None,
        client: str | None,
        *,
        origin: bytes | None = None,
        host: bytes | None = None,
    ) -> Identity:
        """Who asks, if they may.

        Args:
            method: As in the request, upper case.
            path: Decoded, without the query.
            authorization: The header `Authorization`.
            x_api_key: The header `X-API-Key`, for clients that cannot set the other one.
            client: The client's address; counted where there are no keys.
            origin: The header `Origin`, which browsers alone send.
            host: The header `Host`.

        Raises:
            Problem: Code 30 (401, 403): no key, none that is valid, or one whose role may not; a page that may not.
                Code 40 (429): too often.
        """
        if self._only_local_hosts:
            check_host(host)
        if origin is not None:
            check_origin(origin, host)
        keys = self._keys
        least = least_role(method, path)
        if keys is None:
            if self._limiter is not None and least is not Role.ANYONE:
                self._limiter.take(network_of(client))
            return EVERYONE
        if least is Role.ANYONE:
            return NOBODY
        key = _key(authorization, x_api_key)
        if key is None:
            raise Problem(UNAUTHORIZED, "send an API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        try:
            identity = keys.ring().find(key, self._clock())
        except Unknown as error:
            raise Problem(UNAUTHORIZED, str(error)) from None
        if identity.role < least:
            detail = f"a key of role {identity.role.word!r} may not {method} {path}; that takes {least.word!r}"
            raise Problem(FORBIDDEN, detail)
        if self._limiter is not None:
            self._limiter.take(identity.key_id)
        return identity


def make_gate(settings: SecuritySettings, policy: Policy) -> Gate:
    """The gate that the settings ask for.

    Raises:
        KeyFileError: The keys cannot be used.
    """
    return Gate(
        KeySource(settings.api_keys_file, settings.api_keys) if settings.has_keys else None,
        RateLimiter(settings.rate_limit, settings.rate_burst) if settings.rate_limit is not None else None,
        only_local_hosts=policy.open and policy.local and not settings.allow_open,
    )


def _key(authorization: bytes | None, x_api_key: bytes | None) -> bytes | None:
    if authorization is not None and authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    return x_api_key
