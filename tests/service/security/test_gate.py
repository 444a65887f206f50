from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.problems import FORBIDDEN, RATE_LIMITED, UNAUTHORIZED, Kind, Problem, headers_of
from service.security.gate import EVERYONE, NOBODY, Gate, make_gate
from service.security.keys import KeyLine, KeyRing, new_key
from service.security.policy import check
from service.security.rate_limit import RateLimiter
from service.security.roles import ACCESS, ROLES, Role
from service.security.settings import SecuritySettings

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
INSPECT = ("POST", "/v1/inspections")


class Fixed:
    """A ring that stays."""

    def __init__(self, *lines: KeyLine) -> None:
        self._ring = KeyRing(lines)

    def ring(self) -> KeyRing:
        return self._ring


KEYS = {role: new_key(f"a-{role}", role, now=NOW, expires=NOW + timedelta(days=1)) for role in ROLES}


@pytest.fixture
def gate() -> Gate:
    return Gate(Fixed(*(line for _, line in KEYS.values())), clock=NOW.timestamp)


def bearer(role: str) -> bytes:
    return f"Bearer {KEYS[role][0]}".encode()


def refusal(gate: Gate, method: str, path: str, authorization: bytes | None, x_api_key: bytes | None = None) -> Kind:
    with pytest.raises(Problem) as refused:
        gate.check(method, path, authorization, x_api_key, "10.0.0.1")
    assert refused.value.kind.result == 0
    for key, _ in KEYS.values():
        assert key not in refused.value.detail
    return refused.value.kind


@pytest.mark.parametrize("rule", ACCESS)
@pytest.mark.parametrize("role", ROLES)
def test_every_role_at_every_route(gate: Gate, role: str, rule: str) -> None:
    method, path = rule.split(" ")
    if ACCESS[rule] is Role.ANYONE:
        assert gate.check(method, path, bearer(role), None, None) is NOBODY
    elif ROLES[role] >= ACCESS[rule]:
        identity = gate.check(method, path, bearer(role), None, None)
        assert (identity.name, identity.role, identity.key_id) == (f"a-{role}", ROLES[role], KEYS[role][1].id)
    else:
        assert refusal(gate, method, path, bearer(role)) is FORBIDDEN


@pytest.mark.parametrize("rule", [rule for rule, role in ACCESS.items() if role is not Role.ANYONE])
def test_nothing_without_a_key(gate: Gate, rule: str) -> None:
    method, path = rule.split(" ")
    assert refusal(gate, method, path, None) is UNAUTHORIZED


def test_routes_that_nobody_knows_take_a_key_too(gate: Gate) -> None:
    assert refusal(gate, "GET", "/admin", None) is UNAUTHORIZED
    assert refusal(gate, "GET", "/admin", bearer("operator")) is FORBIDDEN
    assert gate.check("GET", "/admin", bearer("engineer"), None, None).name == "a-engineer"


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (b"bearer  " + KEYS["line"][0].encode() + b" ", None),
        (b"BEARER " + KEYS["line"][0].encode(), b"wrong"),
        (None, KEYS["line"][0].encode()),
        (b"Basic dTpw", KEYS["line"][0].encode()),
    ],
    ids=["bearer in small letters", "bearer first", "X-API-Key", "X-API-Key beside Basic"],
)
def test_ways_to_send_a_key(gate: Gate, authorization: bytes | None, x_api_key: bytes | None) -> None:
    assert gate.check(*INSPECT, authorization, x_api_key, None).name == "a-line"


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        b"Basic " + KEYS["line"][0].encode(),
        KEYS["line"][0].encode(),
        b"Bearer " + KEYS["line"][0].encode()[:-1],
        b"Bearer " + KEYS["line"][0].encode() + b"\0",
        b"Bearer \xff\xfe",
        b"Bearer " + b"a" * 65_536,
    ],
    ids=["", "Bearer", "Bearer ", "Bearer x", "Basic", "bare", "too short", "zero byte", "no ASCII", "too long"],
)
def test_what_is_no_key(gate: Gate, authorization: bytes) -> None:
    assert refusal(gate, *INSPECT, authorization) is UNAUTHORIZED


def test_a_wrong_bearer_is_not_made_good_by_the_other_header(gate: Gate) -> None:
    assert refusal(gate, *INSPECT, b"Bearer wrong", KEYS["line"][0].encode()) is UNAUTHORIZED


def test_expired_key() -> None:
    keys = Fixed(*(line for _, line in KEYS.values()))
    gate = Gate(keys, clock=(NOW + timedelta(days=1)).timestamp)
    assert refusal(gate, *INSPECT, bearer("line")) is UNAUTHORIZED


def test_refusals_say_what_to_do(gate: Gate) -> None:
    with pytest.raises(Problem) as missing:
        gate.check(*INSPECT, None, None, None)
    assert "Authorization: Bearer KEY" in missing.value.detail
    assert headers_of(missing.value)["WWW-Authenticate"] == 'Bearer realm="atsnet"'
    with pytest.raises(Problem) as low:
        gate.check("GET", "/v1/inspections", bearer("line"), None, None)
    assert low.value.detail == "a key of role 'line' may not GET /v1/inspections; that takes 'operator'"
    assert "WWW-Authenticate" not in headers_of(low.value)
    assert (missing.value.kind.code, missing.value.kind.status) == (30, 401)
    assert (low.value.kind.code, low.value.kind.status) == (30, 403)


def test_open_gate_lets_everyone_in() -> None:
    gate = Gate(None)
    assert gate.open
    assert gate.check("POST", "/v1/recipes", None, None, None) is EVERYONE
    assert gate.check(*INSPECT, b"Bearer whatever", b"whatever", "10.0.0.1") is EVERYONE


def test_limit_is_that_of_the_key_wherever_it_comes_from() -> None:
    limiter = RateLimiter(1, 2, lambda: 0.0)
    gate = Gate(Fixed(*(line for _, line in KEYS.values())), limiter, clock=NOW.timestamp)
    for client in ("10.0.0.1", "10.0.0.2"):
        gate.check(*INSPECT, bearer("line"), None, client)
    assert refusal(gate, *INSPECT, bearer("line")) is RATE_LIMITED
    gate.check(*INSPECT, bearer("operator"), None, "10.0.0.1")
    for _ in range(10):  # neither probes nor those who are refused use up what others may
        gate.check("GET", "/readyz", None, None, "10.0.0.1")
        assert refusal(gate, *INSPECT, b"Bearer wrong") is UNAUTHORIZED
    gate.check(*INSPECT, bearer("engineer"), None, "10.0.0.1")


def test_limit_is_that_of_the_address_where_there_are_no_keys() -> None:
    gate = Gate(None, RateLimiter(1, 2, lambda: 0.0))
    for _ in range(2):
        gate.check(*INSPECT, b"Bearer a", None, "10.0.0.1")
    with pytest.raises(Problem) as refused:
        gate.check(*INSPECT, b"Bearer b", None, "10.0.0.1")
    assert (refused.value.kind, refused.value.retry_after_s) == (RATE_LIMITED, 1)
    gate.check(*INSPECT, None, None, "10.0.0.2")
    for _ in range(10):
        gate.check("GET", "/livez", None, None, "10.0.0.1")


@pytest.mark.parametrize("keys", [None, Fixed(KEYS["line"][1])])
def test_pages_of_others_are_refused_with_or_without_keys(keys: Fixed | None) -> None:
    gate = Gate(keys, clock=NOW.timestamp)
    own, foreign = b"http://127.0.0.1:8000", b"http://evil.example"
    gate.check(*INSPECT, bearer("line"), None, None, origin=own, host=b"127.0.0.1:8000")
    with pytest.raises(Problem) as refused:
        gate.check(*INSPECT, bearer("line"), None, None, origin=foreign, host=b"127.0.0.1:8000")
    assert refused.value.kind is FORBIDDEN


def made(host: str, **given: object) -> Gate:
    settings = SecuritySettings.model_validate(given)
    return make_gate(settings, check(settings, host))


def refuses_name(gate: Gate) -> bool:
    try:
        gate.check("GET", "/metrics", None, None, None, host=b"evil.example")
    except Problem as problem:
        return problem.kind is FORBIDDEN
    return False


def test_gate_by_settings(tmp_path: Path) -> None:
    assert refuses_name(made("127.0.0.1"))
    assert not refuses_name(made("127.0.0.1", allow_open=True))
    assert not refuses_name(made("0.0.0.0", allow_open=True))
    key, line = new_key("press-3", "line", now=NOW)
    file = tmp_path / "keys.jsonl"
    file.write_text(line.as_line())
    gate = made("127.0.0.1", api_keys_file=file, rate_limit=0.001, rate_burst=1)
    assert not refuses_name(gate)
    assert gate.check(*INSPECT, None, key.encode(), None, host=b"station.example").name == "press-3"
    assert refusal(gate, *INSPECT, None, key.encode()) is RATE_LIMITED
    assert made("127.0.0.1", api_keys=line.as_line()).check(*INSPECT, None, key.encode(), None).name == "press-3"


def test_no_limit_by_default() -> None:
    gate = made("127.0.0.1")
    for _ in range(1000):
        gate.check(*INSPECT, None, None, "10.0.0.1")
