import pytest
from fastapi import Request

from service.negotiation import result_line, wants_line


@pytest.mark.parametrize(
    ("accept", "line"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("text/plain", True),
        ("TEXT/Plain; charset=utf-8", True),
        ("text/plain, */*;q=0.5", True),
        ("text/plain, */*", True),
        ("text/plain;q=0", False),
        ("application/json, text/plain, */*", False),
        ("application/json;q=0.5, text/plain", True),
        ("text/plain;q=0.5, application/problem+json", False),
        ("text/plain;q=many, application/json", False),
    ],
)
def test_accept(accept: str | None, line: bool) -> None:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    assert wants_line(Request({"type": "http", "headers": headers})) is line


def test_line() -> None:
    assert result_line(1, 0, 7, 0.1234567, "01X") == "1;0;7;123457;01X\n"
    assert result_line(0, 41, None, None, None) == "0;41;;;\n"
