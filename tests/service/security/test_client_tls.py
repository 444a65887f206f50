import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from accepting import accepting
from made_certificates import Issued, issue

from service.client import InspectionClient, NoAnswerError, Retries, Tls
from service.examples import REPLY, REPLY_QUERY

ONCE_MORE = Retries(most=1, first_pause_s=0.001)


@pytest.fixture
def context(authority: Issued, tmp_path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issue("station", authority).write(tmp_path))
    return context


@contextmanager
def serving_over(context: ssl.SSLContext) -> Iterator[str]:
    """A server that answers every request over TLS with the same verdict."""
    body = json.dumps(REPLY).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(65536)
            encrypted.sendall(head.encode() + body)

    with accepting(answer) as address:
        yield f"https://{address}"


def ask(url: str, tls: Tls) -> str:
    asked: dict[str, Any] = {**REPLY_QUERY, "trigger": REPLY["trigger"]}
    with InspectionClient(url, tls=tls, retries=ONCE_MORE, timeout_s=20) as client:
        return client.inspect(b"image", **asked).verdict


def test_service_is_known_by_its_authority(context: ssl.SSLContext, ca: Path) -> None:
    with serving_over(context) as url:
        assert ask(url, Tls(ca=ca)) == "fail"


def test_stranger_is_not_asked_twice(context: ssl.SSLContext, tmp_path: Path) -> None:
    other = issue("elsewhere", authority=True).write(tmp_path)[0]
    with serving_over(context) as url:
        for tls in (Tls(), Tls(ca=other)):
            with pytest.raises(NoAnswerError, match="certificate verify failed") as caught:
                ask(url, tls)
            assert caught.value.attempts == 1


def test_client_shows_its_certificate(context: ssl.SSLContext, authority: Issued, ca: Path, tmp_path: Path) -> None:
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = issue("edge", authority, client_only=True).write(tmp_path)
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    with serving_over(context) as url:
        assert ask(url, Tls(ca=ca, certificate=certificate, key=key)) == "fail"
        assert ask(url, Tls(ca=ca, certificate=both)) == "fail"
        with pytest.raises(NoAnswerError) as caught:
            ask(url, Tls(ca=ca))
        assert caught.value.result == 0
