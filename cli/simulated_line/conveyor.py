"""Which part comes when, and to which station: known beforehand, whatever the service does."""

import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Final, Literal

from cli.simulated_line.specimens import Specimen, Specimens

_HASTE: Final = 10
"""How many times as fast as on average the belt of a stop-and-go conveyor runs while it runs."""

Repeat = Literal["meanwhile", "afterwards"]
"""When a controller that got no reply posts the same part once more: before the service answered, or after that."""


def new_run() -> str:
    """A name for a run that no other run has; it says when, in UTC."""
    return f"SIM-{datetime.now(UTC):%y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@dataclass(frozen=True, slots=True)
class Part:
    """One part on its way to a station."""

    due_s: float
    """When it is at the station, from the start of the line."""
    station: str
    lot: str
    serial: str
    trigger: int
    """The station's count of its parts, from 1."""
    specimen: Specimen
    repeat: Repeat | None
    """Whether the reply to it gets lost on the way, so that it is posted a second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conveyor:
    """Brings parts to the stations by turns. The same seed brings the same ones."""

    rate: float
    """Parts a second, of all stations together."""
    stations: int = 1
    share: float = 0.1
    """Of defective parts, 0 to 1."""
    burst: int = 1
    """Parts that come close together, before the belt stands until their time is up; 1 is a steady belt."""
    repeats: float = 0.05
    """Share of parts that are posted twice, 0 to 1."""
    lot_size: int = 500
    seed: int = 0
    run: str = "SIM"
    """What lots and serial numbers begin with; another one for every run, or its parts were inspected before."""

    @property
    def station_names(self) -> tuple[str, ...]:
        """In the order in which they get their parts."""
        return tuple(f"sim-{number}" for number in range(1, self.stations + 1))

    def parts(self, specimens: Specimens) -> Iterator[Part]:
        """All parts, without an end."""
        chance = Random(self.seed)
        for number in itertools.count():
            turn, place = divmod(number, self.stations)
            yield Part(
                due_s=self._due_s(number),
                station=self.station_names[place],
                lot=f"{self.run}-L{number // self.lot_size + 1:03d}",
                serial=f"{self.run}-{number + 1:06d}",
                trigger=turn + 1,
                specimen=specimens.pick(chance, self.share),
                repeat=chance.choice(("meanwhile", "afterwards")) if chance.random() < self.repeats else None,
            )

    def _due_s(self, number: int) -> float:
        batch, place = divmod(number, self.burst)
        return (batch * self.burst + place / (_HASTE if self.burst > 1 else 1)) / self.rate
