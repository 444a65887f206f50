"""Packets between two processes over a socket pair; its end is the death, or the goodbye, of the other side.

A packet is either a batch of hand-offs (fixed-size records, all that gathered in one turn of the event loop) or a note
(one JSON object). Descriptors travel along. Socket pairs have no name, so that nothing is left of them either.
"""

import array
import asyncio
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog

log = structlog.get_logger(__name__)

_RECORD: Final = struct.Struct("<BBHIII")
_BATCH: Final = b"\x01"
_MAX_RECORDS: Final = 200
"""Of one packet; the system passes 253 descriptors at most."""
_MAX_PACKET: Final = 65536
_MAX_DESCRIPTORS: Final = 253
_PACKETS_A_TURN: Final = 16
_PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class HandOff:
    """A slot goes over to the other side."""

    kind: int
    slot: int
    generation: int
    length: int
    """Bytes of the slot's header that count."""
    descriptor: int | None = None
    """A file that comes along; whoever receives it closes it."""
    memory: int = 0
    """Number of the memory that the slot is in."""


class Channel:
    """One side of a socket pair, on the running event loop.

    Args:
        sock: This side's end, owned from here on.
        on_batch: Told about hand-offs.
        on_note: Told about a note and the descriptors that came along, which it owns.
        on_end: Told once when the other side has gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_batch: Callable[[Sequence[HandOff]], None] = lambda _: None,
        on_note: Callable[[dict[str, Any], list[int]], None] = lambda _, __: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._sock = sock
        self._on_batch = on_batch
        self._on_note = on_note
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._gathered: list[HandOff] = []
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self.closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def hand_off(self, hand_off: HandOff) -> None:
        """Send a hand-off with all others of this turn of the event loop; its descriptor is closed when it is sent."""
        if self.closed:
            _close_all([] if hand_off.descriptor is None else [hand_off.descriptor])
            return
        if not self._gathered:
            self._loop.call_soon(self.flush)
        self._gathered.append(hand_off)

    def note(self, note: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a note; the descriptors are closed when it is sent."""
        self.flush()
        self._send(orjson.dumps(note), list(descriptors))

    def flush(self) -> None:
        """Send the hand-offs that have gathered."""
        gathered, self._gathered = self._gathered, []
        for start in range(0, len(gathered), _MAX_RECORDS):
            batch = gathered[start : start + _MAX_RECORDS]
            packet = bytearray(_BATCH)
            descriptors = []
            for one in batch:
                accompanied = one.descriptor is not None
                packet += _RECORD.pack(one.kind, accompanied, one.memory, one.slot, one.generation, one.length)
                if one.descriptor is not None:
                    descriptors.append(one.descriptor)
            self._send(bytes(packet), descriptors)

    def close(self) -> None:
        """Close this side; `on_end` is not told."""
        if self.closed:
            return
        self.flush()
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        for _, descriptors in self._unsent:
            _close_all(descriptors)
        self._unsent.clear()
        self._sock.close()

    def _send(self, packet: bytes, descriptors: list[int]) -> None:
        if self.closed:
            _close_all(descriptors)
            return
        self._unsent.append((packet, descriptors))
        if len(self._unsent) == 1:
            self._write()

    def _write(self) -> None:
        while self._unsent:
            packet, descriptors = self._unsent[0]
            try:
                if descriptors:
                    socket.send_fds(self._sock, [packet], descriptors)
                else:
                    self._sock.send(packet)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock.fileno(), self._write)
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # more descriptors under way than a user may have open
                    self._loop.call_later(_PAUSE_S, self._write)
                    return
                self._loop.call_soon(self._end)
                return
            self._unsent.popleft()
            _close_all(descriptors)
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(_PACKETS_A_TURN):
            if self.closed:
                return
            try:
                packet, descriptors = _receive(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionResetError:
                # It left before it had read all; told once, and before what it said last.
                continue
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                _close_all(descriptors)
                self._end()
                return
            if packet[:1] == _BATCH:
                self._on_batch(_unpack(packet, descriptors))
            else:
                self._on_note(orjson.loads(packet), descriptors)

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._on_end()


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends that keep the boundaries of packets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def receive_note(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for the first note, before there is an event loop.

    Raises:
        EOFError: The other side has gone.
    """
    packet, descriptors = _receive(sock)
    if not packet:
        raise EOFError("the other side closed the connection before it said anything")
    note: dict[str, Any] = orjson.loads(packet)
    return note, descriptors


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4)
    packet, ancillary, _, _ = sock.recvmsg(_MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return packet, list(descriptors)


def _unpack(packet: bytes, descriptors: list[int]) -> list[HandOff]:
    following = iter(descriptors)
    return [
        HandOff(kind, slot, generation, length, next(following, None) if accompanied else None, memory)
        for kind, accompanied, memory, slot, generation, length in _RECORD.iter_unpack(memoryview(packet)[1:])
    ]


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
