"""The table of errors in docs/service.md is that of the code."""

import re
from pathlib import Path

from service.problems import KINDS

DOCUMENT = Path(__file__).parents[2] / "docs" / "service.md"


def test_the_table_lists_every_code_and_status() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index("| code | status | when |") + 2
    end = lines.index("", start)
    rows = [re.fullmatch(r"\| (\d+) \| (\d+) \| .+ \|", line) for line in lines[start:end]]
    listed = [(int(row[1]), int(row[2])) for row in rows if row]
    assert len(listed) == end - start
    assert listed == sorted({(kind.code, kind.status) for kind in KINDS.values()})
