"""What the gate costs a request, and the hiding of secrets a log line: `python -m benchmarks.security_cost`.

CPU time; the contestants take turns, and each figure is the best of the rounds.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from benchmarks.program import run_program
from service.security.gate import make_gate
from service.security.gated_app import admit
from service.security.key_file import add
from service.security.keys import new_key
from service.security.policy import check
from service.security.redaction import hiding
from service.settings import Settings

_ROUNDS: Final = 9
_CALLS: Final = 20_000

_HEADERS: Final = [
    *((b"host", b"127.0.0.1:8000"), (b"user-agent", b"controller"), (b"accept", b"*/*")),
    *((b"content-length", b"65536"), (b"content-type", b"image/png")),
]
_EVENT: Final = {
    **{"id": "01JD8Z7Q4N5R6S7T8V9W0X1Y2Z", "verdict": "fail", "result": 2, "code": 0, "score": 1.5625, "ms": 9.123},
    **{"recipe": "tec-grain", "station": "s1", "lot": "L7", "serial": "A0001", "trigger": 123, "event": "inspected"},
    **{"process": "worker-1", "level": "info", "logger": "service.inspector"},
    "timestamp": "2026-01-01T00:00:00.000000Z",
}


def _asking(settings: Settings, headers: list[tuple[bytes, bytes]]) -> Callable[[], Any]:
    gate = make_gate(settings, check(settings, settings.host))
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/v1/inspections",
        "client": ("127.0.0.1", 50000),
    }
    scope |= {"state": {}, "headers": headers}
    return lambda: admit(gate, scope)


def _contestants(folder: Path) -> dict[str, Callable[[], Any]]:
    key, line = new_key("press-3", "line", now=datetime.now(UTC))
    file = folder / "keys.jsonl"
    add(file, line)
    with_key = [*_HEADERS, (b"authorization", f"Bearer {key}".encode())]
    render = structlog.processors.JSONRenderer(lambda event, **_: orjson.dumps(event, default=repr).decode())
    hidden = hiding(render)
    return {
        "gate, open on loopback": _asking(Settings(), _HEADERS),
        "gate, key": _asking(Settings(api_keys_file=file), with_key),
        "gate, key and rate": _asking(Settings(api_keys_file=file, rate_limit=1e6, rate_burst=10**6), with_key),
        "log line, rendered": lambda: render(None, "info", dict(_EVENT)),
        "log line, rendered without secrets": lambda: hidden(None, "info", dict(_EVENT)),
    }


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        contestants = _contestants(Path(folder))
        best = dict.fromkeys(contestants, float("inf"))
        for _ in range(_ROUNDS):
            for name, call in contestants.items():
                began = time.process_time()
                for _ in range(_CALLS):
                    call()
                best[name] = min(best[name], (time.process_time() - began) / _CALLS)
    print(f"{os.cpu_count()} CPUs; microseconds a call")
    for name, seconds in best.items():
        print(f"{name:40} {seconds * 1e6:6.2f}")


if __name__ == "__main__":
    run_program(main)
