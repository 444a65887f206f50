import logging
from collections.abc import MutableMapping
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.security.keys import PREFIX
from service.security.redaction import _SECRET_NAMES, HIDDEN, hide, hiding, is_secret

ID = "0f3c5d7e9a1b2c4d"
SECRET = "s3cr3t_-" + "A" * 35
KEY = f"{PREFIX}{ID}_{SECRET}"


def event(**fields: Any) -> dict[str, Any]:
    """What is rendered of an event at last."""
    rendered: list[dict[str, Any]] = []

    def render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        rendered.append(dict(event))
        return repr(event)

    line = hiding(render)(None, "info", fields)
    assert hide(repr(rendered[-1])) == line
    return rendered[-1]


@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": f"Bearer {KEY}"},
        {"Authorization": "Basic dXNlcjpzM2NyM3Q="},
        {"x_api_key": KEY},
        {"api_key": "s3cr3t"},
        {"api_keys": "s3cr3t"},
        {"password": "s3cr3t"},
        {"ssl_keyfile_password": "s3cr3t"},
        {"headers": {"X-API-Key": "s3cr3t", "accept": "*/*"}},
        {"headers": [(b"x-api-key", b"s3cr3t"), (b"accept", b"*/*")]},
        {"headers": [("Cookie", "s3cr3t")]},
        {"scope": {"headers": [(b"authorization", b"s3cr3t")]}},
        {"detail": f"the client sent {KEY}"},
        {"detail": f"Authorization: Bearer {SECRET}"},
        {"detail": "Authorization: Basic dXNlcjpzM2NyM3Q="},
        {"detail": "cannot connect to postgresql+psycopg://inspector:s3cr3t@db.plant:5432/records"},
        {"raw": f"X-API-Key: {KEY}".encode()},
        {"items": [f"a {KEY}", ("b", KEY)]},
    ],
)
def test_secrets_are_hidden(fields: dict[str, Any]) -> None:
    shown = repr(event(event="refused", **fields))
    assert "s3cr3t" not in shown
    assert "dXNlcjpzM2NyM3Q" not in shown
    assert HIDDEN in shown


def test_whose_key_it_was_can_still_be_found() -> None:
    assert hide(f"{KEY} of press-3") == f"{PREFIX}{ID}_{HIDDEN} of press-3"


def test_what_is_no_secret_stays() -> None:
    fields = {
        "event": "refused",
        "code": 30,
        "detail": "send an API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        "key_id": ID,
        "url": "postgresql+psycopg://inspector@db.plant:5432/records",
        "page": "http://127.0.0.1:8000/docs?a=b@c",
        "station": "s1",
        "remark": "basic authentication is not offered",
        "idempotency_key": "press-3/A0001/1",
        "headers": {"www-authenticate": 'Bearer realm="atsnet"'},
        "bytes": b"\xff\x00",
        "nothing": None,
        "pair": ("a", 1),
    }
    assert event(**fields) == fields


@pytest.mark.parametrize("name", sorted(_SECRET_NAMES))
def test_no_name_of_a_secret_is_overlooked(name: str) -> None:
    for written in (name, name.replace("-", "_"), name.title()):
        assert is_secret(written)
        assert "s3cr3t" not in hiding(structlog.processors.JSONRenderer())(None, "info", {written: "s3cr3t"})


def test_a_line_without_traces_of_secrets_is_rendered_once() -> None:
    lines: list[str] = []

    def render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        lines.append(repr(event))
        return lines[-1]

    hidden = hiding(render)
    assert hidden(None, "info", {"event": "inspected", "station": "s1"}) == lines[0]
    assert len(lines) == 1
    hidden(None, "info", {"event": "refused", "password": "s3cr3t"})
    assert len(lines) == 3


@given(st.text(), st.text())
def test_a_key_is_hidden_whatever_is_around_it(before: str, after: str) -> None:
    assert SECRET not in hide(f"{before}{KEY} {after}")


def test_nothing_of_a_key_is_left_in_a_whole_log(capsys: pytest.CaptureFixture[str]) -> None:
    """As the service sets up its logs: fields, messages of other libraries and tracebacks."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=True)),
            hiding(structlog.processors.JSONRenderer(default=repr)),
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logger = logging.getLogger("test_redaction")
    logger.propagate = False
    logger.addHandler(handler)

    def fail(key: str) -> None:
        raise ValueError(f"no such key: {key}")

    try:
        logger.warning("sent %s", KEY, extra={"authorization": "s3cr3t", "thing": object()})
        try:
            fail(KEY)
        except ValueError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    log = capsys.readouterr().err
    assert log.count(f"{PREFIX}{ID}_{HIDDEN}") >= 3
    assert "s3cr3t" not in log
    assert "ValueError" in log
