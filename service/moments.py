"""Points in time as clients give them: ISO 8601, and no number of which nobody can say whether it is s or ms."""

import re
from datetime import datetime
from typing import Any, Final

from pydantic import BeforeValidator

_NUMBER: Final = re.compile(r"\s*[+-]?[\d_.]+(e[+-]?\d+)?\s*", re.IGNORECASE)


def _not_a_number(value: Any) -> Any:
    if not isinstance(value, str | datetime) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError("a number is no point in time here; give it as ISO 8601, such as 2026-05-01T06:00:00Z")
    return value


ISO_8601: Final = BeforeValidator(_not_a_number)
"""For a `datetime` or `AwareDatetime`; pydantic alone takes numbers for seconds, and large ones for milliseconds."""
