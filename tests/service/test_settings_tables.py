"""The tables of the README and of docs/service.md list every setting as it is."""

from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from service.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]


def row(name: str, field: FieldInfo) -> str:
    """The line of a setting; the meaning tells of defaults that depend on the machine or on other settings."""
    default = field.default
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    cell = "" if field.default_factory or default is None else f"`{shown}` "
    return f"| `{name}` | `{ENV_PREFIX}{name.upper()}` | {cell}| {field.description} |"


@pytest.mark.parametrize("document", ["README.md", "docs/service.md"])
def test_the_table_lists_every_setting(document: str) -> None:
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    start = lines.index("| setting | variable | default | meaning |") + 2
    end = lines.index("", start)
    assert lines[start:end] == [row(name, field) for name, field in Settings.model_fields.items()]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_means(name: str) -> None:
    assert Settings.model_fields[name].description
