import pytest

from service.problems import FORBIDDEN, Problem
from service.security.origin import check_host, check_origin


def refused(check: object, *arguments: object) -> bool:
    try:
        check(*arguments)  # type: ignore[operator]
    except Problem as problem:
        return problem.kind is FORBIDDEN
    return False


@pytest.mark.parametrize(
    ("origin", "host", "refusal"),
    [
        (b"http://127.0.0.1:8000", b"127.0.0.1:8000", False),
        (b"https://Station.example", b"station.example", False),
        (b"http://[::1]:8000", b"[::1]:8000", False),
        (b"http://127.0.0.1:3000", b"127.0.0.1:8000", True),
        (b"http://evil.example", b"127.0.0.1:8000", True),
        (b"http://127.0.0.1:8000.evil.example", b"127.0.0.1:8000", True),
        (b"http://evil.example/127.0.0.1:8000", b"127.0.0.1:8000", True),
        (b"null", b"127.0.0.1:8000", True),
        (b"", b"127.0.0.1:8000", True),
        (b"http://", b"", True),
        (b"http://127.0.0.1:8000", None, True),
        (b"\xff\x00\n", b"\xff", True),
    ],
)
def test_pages_of_other_origins_are_refused(origin: bytes, host: bytes | None, refusal: bool) -> None:
    assert refused(check_origin, origin, host) is refusal


@pytest.mark.parametrize(
    ("host", "refusal"),
    [
        (None, False),
        (b"localhost", False),
        (b"LocalHost:8000", False),
        (b"127.0.0.1:8000", False),
        (b"127.0.0.2", False),
        (b"[::1]:8000", False),
        (b"evil.example:8000", True),
        (b"localhost.evil.example", True),
        (b"127.0.0.1.evil.example", True),
        (b"evil.example#127.0.0.1", True),
        (b"evil.example@127.0.0.1.evil.example", True),
        (b"192.0.2.7", True),
        (b"[::1", True),
        (b"", True),
        (b"\xff", True),
    ],
)
def test_names_that_are_not_this_machine_s_are_refused(host: bytes | None, refusal: bool) -> None:
    for _ in range(2):
        assert refused(check_host, host) is refusal
