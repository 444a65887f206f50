"""What the command's exit codes mean."""

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """The same for every command; `serve` ends with the same numbers."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    DATA = 3
    CONFIGURATION = 4
    REFUSED_RESULT = 5
    SERVICE = 6
    INCOMPLETE = 7
    NOT_ALL_PASSED = 10
    LINE_FAULT = 11
    INTERRUPTED = 130


MEANINGS: Final = {
    ExitCode.OK: "done; of `inspect`: every part passed",
    ExitCode.UNEXPECTED: "an unexpected error, or the system refused to read or write a file",
    ExitCode.USAGE: "wrong options or arguments",
    ExitCode.DATA: "a data folder or images in it cannot be used",
    ExitCode.CONFIGURATION: "a configuration, backbone, run, bundle or installation cannot be used; over budget",
    ExitCode.REFUSED_RESULT: "the result must not be used: training diverged, export lost parity, drain cut short",
    ExitCode.SERVICE: "the service cannot be reached or refuses; of `serve`: the address is taken",
    ExitCode.INCOMPLETE: "`benchmark` and `ablate` only: a cell failed; the others have their results",
    ExitCode.NOT_ALL_PASSED: "`inspect` only: at least one part did not pass (fail, review or not evaluated)",
    ExitCode.LINE_FAULT: "`simulate-line` only: a part without an answer, with two different ones, or a failed engine",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
}


def as_help() -> str:
    """The table for `--help`, a line a code."""
    rows = (f"{code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())
    return "\n".join(["Exit codes:", *rows])
