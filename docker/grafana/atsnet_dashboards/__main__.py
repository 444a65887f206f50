"""Write the dashboards: `python -m atsnet_dashboards` from `docker/grafana`."""

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from atsnet_dashboards import line, station

DASHBOARDS: Final = {"line.json": line.dashboard, "station.json": station.dashboard}
_FOLDER: Final = Path(__file__).resolve().parents[1] / "dashboards"


def documents() -> dict[str, str]:
    """What each file holds, by its name."""
    return {name: JSONEncoder(sort_keys=True, indent=2).encode(make()) + "\n" for name, make in DASHBOARDS.items()}


def main() -> None:
    """Write every file."""
    for name, text in documents().items():
        (_FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
