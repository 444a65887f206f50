"""The health check of the images, against a service that is ready, not ready, and not there."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from station_files import DOCKER


@contextmanager
def service(status: HTTPStatus) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else HTTPStatus.NOT_FOUND)
            self.end_headers()
            self.wfile.write(b"the answer")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def check(port: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ATSNET_PORT": str(port)}
    command = [sys.executable, str(DOCKER / "healthcheck.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_ready() -> None:
    with service(HTTPStatus.OK) as port:
        assert check(port).returncode == 0


@pytest.mark.parametrize("status", [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.NOT_FOUND])
def test_not_ready(status: HTTPStatus) -> None:
    with service(status) as port:
        done = check(port)

    assert done.returncode == 1
    assert f"{status.value}: the answer" in done.stderr


def test_nobody_there() -> None:
    with service(HTTPStatus.OK) as port:
        pass

    done = check(port)

    assert done.returncode == 1
    assert "no answer" in done.stderr
