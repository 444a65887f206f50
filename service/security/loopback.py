"""Addresses and names that only this machine reaches."""

import socket
from ipaddress import IPv6Address, ip_address


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens there: every address of the name is a loopback address."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:  # who listens there will say what is wrong with it
        return False
    return all(is_loopback(str(address[0])) for *_, address in found)


def is_loopback(address: str) -> bool:
    """Whether that is an address of this machine for itself; anything but an address is not."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback
