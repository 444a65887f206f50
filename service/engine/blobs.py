"""Bytes of any size that one process hands to another: an anonymous file, passed as a descriptor."""

import os
from typing import Final

LARGE: Final = 1024 * 1024
"""Bytes from which copying is for a thread: an event loop would stand still for a good part of a millisecond."""


def put(data: bytes) -> int:
    """Bytes as a file without a name; the descriptor is the caller's."""
    descriptor = os.memfd_create("atsnet-blob", os.MFD_CLOEXEC)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def take(descriptor: int) -> bytes:
    """What is in such a file, whole; closes it."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
