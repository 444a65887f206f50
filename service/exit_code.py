"""What `serve` ends with."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The same numbers as those of the command."""

    OK = 0
    CANNOT_START = 4
    """Bundle missing, altered or not answering as validated; or the records cannot be opened."""
    DRAIN_CUT_SHORT = 5
    """Something was not finished within the grace time, or when a second signal came."""
    ADDRESS_TAKEN = 6
