"""What a browser must not do on behalf of a page that is not ours.

A page from anywhere can make a browser on this machine send requests to a service on this machine, whose address is
known to everyone: directly (cross-site request forgery), or under a name of its own that it points at this machine
(DNS rebinding). The first says where it comes from, in `Origin`; the second shows in `Host`.
"""

from functools import lru_cache
from urllib.parse import urlsplit

from service.problems import FORBIDDEN, Problem
from service.security.loopback import is_loopback


def check_origin(origin: bytes, host: bytes | None) -> None:
    """Refuse what a page of another origin asks for.

    Raises:
        Problem: Code 30, status 403.
    """
    _, separator, authority = origin.lower().partition(b"://")
    if not separator or not host or authority != host.lower():
        raise Problem(FORBIDDEN, f"pages of {_shown(origin)} may not use this service")


def check_host(host: bytes | None) -> None:
    """Refuse a request to a name that is not this machine's own; a client that says none is no browser.

    Raises:
        Problem: Code 30, status 403.
    """
    if host is not None and not _names_this_machine(host):
        raise Problem(
            FORBIDDEN,
            f"without API keys, this service answers to localhost and 127.0.0.1, not to {_shown(host)}; "
            "set up keys, or ATSNET_ALLOW_OPEN=true",
        )


@lru_cache(maxsize=64)
def _names_this_machine(host: bytes) -> bool:
    try:
        name = urlsplit("//" + host.decode("latin-1")).hostname
    except ValueError:
        return False
    return name is not None and (name == "localhost" or is_loopback(name))


def _shown(header: bytes) -> str:
    return repr(header[:100].decode("latin-1"))
