"""A service for the line alone: a process that comes and goes with it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from service.client import ServiceError

_COMMAND: Final = (sys.executable, "-c", "from cli.main import main; main()", "serve", "--log-format", "json")
_LAST_WORDS: Final = 2000
_DRAIN_S: Final = 120
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def serving(url: str, var: Path) -> Iterator[None]:
    """Run `atsnet serve` at an address until the block ends; all it keeps is in `var`, its log too.

    It does not get the terminal's Ctrl-C: it ends after the line, and answers until then. SIGTERM is as Ctrl-C
    meanwhile, for a process that ends at once would leave it behind.

    Raises:
        ServiceError: It does not start, and the end of its log says why; or the address is none to serve at.
    """
    address = urlsplit(url)
    if address.scheme != "http" or not address.hostname:
        raise ServiceError(f"{url} is no address to serve at; one is http://127.0.0.1:8000")
    where = ("--host", address.hostname, "--port", str(address.port or 80), "--var", str(var))
    var.mkdir(parents=True, exist_ok=True)
    path = var / "serve.log"
    told: list[int] = []
    before = {number: signal.signal(number, lambda number, _: told.append(number)) for number in _ENDING}
    with path.open("wb") as log:
        process = subprocess.Popen(
            [*_COMMAND, *where], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    with process:
        assert process.stdout is not None
        try:
            for number in _ENDING:
                signal.signal(number, signal.default_int_handler)
            if told:  # while the process began: raised earlier, it would have left that behind
                raise KeyboardInterrupt
            if not process.stdout.readline():  # it says where it listens once it does
                last = path.read_bytes()[-_LAST_WORDS:].decode(errors="replace").strip()
                raise ServiceError(f"the service ended with {process.wait()}; the end of {path}:\n{last}")
            yield
        finally:
            _end(process)
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_DRAIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
