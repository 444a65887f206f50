"""A server below HTTP: what it does with a connection is the test's."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.server import bind

Answer = Callable[[socket.socket], None]


@contextmanager
def accepting(answer: Answer) -> Iterator[str]:
    """Have each connection answered, one after the other, until the block ends; its address, `host:port`."""
    end = threading.Event()

    def serve(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                if end.is_set():
                    return
                answer(connection)

    with bind("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{address[1]}"
        finally:
            end.set()
            socket.create_connection(address).close()
            thread.join()
