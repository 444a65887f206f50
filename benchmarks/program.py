"""How a program of this folder ends when something that it needs is missing or wrong: one line, and exit code 2."""

import sys
from collections.abc import Callable

from cli.errors import describe
from service.records.database import RecordError


def run_program(main: Callable[[], None]) -> None:
    """Call `main`; what the command would explain is explained, and the traceback of all else is worth seeing."""
    try:
        main()
    except RecordError as error:
        sys.exit(_refuse(str(error)))
    except Exception as error:
        known = describe(error)
        if known is None:
            raise
        sys.exit(_refuse(known[1]))


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
