"""Reads the station's files as compose would where no variable is set."""

import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"

_DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")


class ComposeLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML says no types
    """YAML with compose's own tags, `!reset` and `!override`."""


ComposeLoader.add_multi_constructor("!", lambda *_: None)


def read_compose(path: Path) -> Any:
    """A compose file; every `${NAME:-default}` is its default."""
    return _without_variables(yaml.load(path.read_text(), ComposeLoader))


def _without_variables(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_variables(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_variables(part) for part in value]
    return _DEFAULT.sub(r"\1", value) if isinstance(value, str) else value
