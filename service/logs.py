"""Structured logs: one line an event on standard error, uvicorn's and the libraries' in the same form."""

import logging
import sys
from contextlib import suppress
from typing import Any, BinaryIO, Literal, cast

import orjson
import structlog

from service.security.redaction import hiding


def configure_logs(log_format: Literal["json", "console"], level: str) -> None:
    """Set up the logs of this process, in JSON for machines or in colours for people."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Without local variables: they are whole images here.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    json: list[structlog.types.Processor] = [
        structlog.processors.ExceptionRenderer(tracebacks),
        hiding(structlog.processors.JSONRenderer(_to_json)),
    ]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    last = json if log_format == "json" else [hiding(console)]
    # Our own events do not pass through the standard library, which takes longer than all else that is done with them.
    structlog.configure(
        processors=[*shared, *last, _encode],
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", _StandardError(sys.stderr.buffer))),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=())],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # The start and stop of the server are told by our own events; its warnings and errors still come through.
    logging.getLogger("uvicorn").setLevel(max(root.level, logging.WARNING))
    # Of migrations, `records_migrated` tells what has become of the database.
    logging.getLogger("alembic").setLevel(max(root.level, logging.WARNING))


class _StandardError:
    """Where lines go. One that cannot be written, to a file on a full disk, is lost and takes no thread with it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, line: bytes) -> None:
        with suppress(OSError):
            self._stream.write(line)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _to_json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=repr).decode()


def _encode(_: Any, __: str, line: Any) -> bytes:
    return str(line).encode("utf-8", "backslashreplace")
