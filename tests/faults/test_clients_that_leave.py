"""Clients that send slowly, stop half way or hang up: nothing of theirs stays, and the next request is served."""

import asyncio
import random
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import orjson
import pytest
from stations import PATIENCE_S, Station, Tell, wait_until

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset instead of a goodbye."""

MIB = 1024 * 1024
GROWTH_MIB = 24
ROOM = {"descriptors": 16, "threads": 8, "tasks": 3}
"""For pools that had not made all of their threads and connections, and for the measurement's own connection."""


def head(length: int, **fields: object) -> bytes:
    query = "&".join(f"{name}={value}" for name, value in fields.items())
    return f"POST /v1/inspections?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


async def leave(port: int, image: bytes, chance: random.Random) -> None:
    """Connect, send some or all of a request, perhaps wait for some of the answer, and hang up."""
    await asyncio.sleep(chance.uniform(0, 1))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = head(len(image), station="s", serial="A", trigger=chance.randrange(500)) + image
    with suppress(ConnectionError):
        sent = chance.choice([0, chance.randrange(len(request)), len(request), len(request)])
        writer.write(request[:sent])
        await writer.drain()
        await asyncio.sleep(chance.choice([0, chance.uniform(0, 0.05), chance.uniform(0, 0.5)]))
        if chance.random() < 0.2:
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(10), 0.1)
        if chance.random() < 0.5:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort() if chance.random() < 0.3 else writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "workers and engine"])
def test_clients_that_hang_up(
    station: Station, chosen: Callable[[int, int], int], chance: random.Random, long: bool, workers: int, tell: Tell
) -> None:
    if workers > 1 and not long:
        pytest.skip("part of `make test-faults`")
    clients, rounds = chosen(150, 1000), chosen(1, 5)
    station.settings |= {"workers": workers, "queue_size": 32}
    station.slow = True
    station.start()
    image = station.samples[0]

    async def crowd() -> None:
        await asyncio.gather(*(leave(station.port, image, chance) for _ in range(clients)))

    asyncio.run(crowd())  # once for what is made when it is first needed
    settled, memory = held(station), station.rss_bytes()
    for _ in range(rounds):
        asyncio.run(crowd())
        assert station.ready()
        assert station.post(image).json()["verdict"] == "pass"
    now = held(station)
    for _ in range(1000):
        now = held(station)
        if holds_no_more(now, settled):
            break
        time.sleep(0.01)
    assert holds_no_more(now, settled), f"{settled} -> {now}"
    wait_until(lambda: station.metric("inspect_queue_depth") == 0)
    outcomes = station.events("client_gone")
    tell(f"{(rounds + 1) * clients} clients hung up, {len(outcomes)} with a request under way; {settled} -> {now}")
    tell(f"memory {memory / MIB:.0f} -> {station.rss_bytes() / MIB:.0f} MiB")
    assert outcomes
    assert station.rss_bytes() < memory + GROWTH_MIB * MIB
    assert not station.events("unexpected_error"), station.tail()
    assert not station.events("engine_lost")
    # Whatever was counted in is finished: else this would wait for it, and be cut short.
    assert station.stop() == 0


def held(station: Station) -> dict[str, int]:
    """Descriptors and threads of all its processes, and tasks of the event loop of the one that can be asked."""
    found = {"descriptors": 0, "threads": 0}
    for pid in station.pids():
        one = station.open_in(pid)
        found = {name: found[name] + one[name] for name in found}
    if station.settings["workers"] == 1:
        found["tasks"] = station.census()["tasks"]
    return found


def holds_no_more(now: dict[str, int], before: dict[str, int]) -> bool:
    return all(now[name] <= before[name] + ROOM[name] for name in before)


def test_more_connections_than_files(station: Station, cleanup: ExitStack) -> None:
    """Those that were there before are served on, and so is everybody once the others have gone."""
    image = station.samples[0]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (320, before[1]))
    try:
        station.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    kept = cleanup.enter_context(httpx.Client(base_url=station.url, timeout=PATIENCE_S, trust_env=False))
    assert kept.post("/v1/inspections", content=image).status_code == 200
    with ExitStack() as crowd:
        for _ in range(600):
            crowd.enter_context(socket.create_connection(("127.0.0.1", station.port)))
        assert [kept.post("/v1/inspections", content=image).status_code for _ in range(5)] == [200] * 5
    wait_until(station.ready)
    assert station.post(image).json()["verdict"] == "pass"
    assert station.log.read_bytes().count(b"system resource") < 10
    assert station.stop() == 0


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_slow_and_half_sent_bodies(station: Station, cleanup: ExitStack) -> None:
    station.settings["queue_size"] = 4
    station.start()
    image = station.samples[0]
    slow = [cleanup.enter_context(socket.create_connection(("127.0.0.1", station.port))) for _ in range(5)]
    for number, connection in enumerate(slow):
        connection.sendall(head(len(image), station="slow", deadline_ms=1500, trigger=number) + image[: number * 50])
    # They are inspections under way, which leaves one place: others are still served.
    for trigger in range(5):
        assert station.post(image, trigger=trigger).json()["verdict"] == "pass"
    assert station.ready()
    for _ in range(5):  # now and then a byte, which does not earn them more time
        time.sleep(0.1)
        for connection in slow:
            connection.sendall(b"x")
    for number, connection in enumerate(slow):
        connection.settimeout(60)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 504"), answer
        problem = orjson.loads(answer.partition(b"\r\n\r\n")[2])
        assert (problem["code"], problem["result"], problem["trigger"]) == (41, 0, number)
    # All places are free again.
    assert [station.post(image).status_code for _ in range(10)] == [200] * 10
    assert station.stop() == 0
