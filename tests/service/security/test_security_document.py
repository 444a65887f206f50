"""What docs/security.md says of roles and tests is so."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from service.security.roles import ACCESS

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TESTS = re.findall(r"`([\w/]*test_\w+\.py)::(\w+)`", DOCUMENT)


def test_table_of_roles_is_the_table_in_the_code() -> None:
    rows = re.findall(r"^\| `([A-Z]+ /\S*)` \| (\w+) \|$", DOCUMENT, re.MULTILINE)
    assert rows == [(rule, role.word) for rule, role in ACCESS.items()]


@pytest.mark.parametrize(("file", "test"), TESTS)
def test_tests_that_are_named_exist(file: str, test: str) -> None:
    path = ROOT / file if "/" in file else Path(__file__).parent / file
    assert re.search(rf"^(async )?def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_promise_names_a_test() -> None:
    promises = DOCUMENT.partition("## What is promised")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 15
    assert all("::test_" in row for row in rows)


def test_no_secret_of_an_example_is_ever_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    examples = re.findall(r"(?:--file |API_KEYS_FILE=|SSL_\w+FILE=)(\S+)", DOCUMENT)
    assert {"keys.jsonl", "station.key"} <= set(examples)
    assert [name for name in examples if not any(fnmatch(name, pattern) for pattern in ignored)] == []
