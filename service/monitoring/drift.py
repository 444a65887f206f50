"""Whether a recipe's parts still look as they did at calibration: score, brightness and sharpness, verdict by verdict.

Two tests watch each of the three. The sequential one (`sequential`) is quick, and its false-alarm rate is proven; the
stability index (`stability`) says how far the last few hundred parts are from the calibration, whatever the shape of
the difference. An alarm of either is one event; it stays until the quantity has been quiet for a whole window, or an
operator resets it.

A monitor belongs to one event loop and starts no threads. An observation costs a few microseconds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from atsnet.reference import MIN_IMAGES, Edges, Reference, gaps
from service.monitoring.sequential import Change, ChangeDetector, likeliest_change
from service.monitoring.stability import StabilityWindow, psi_limit

Quantity = Literal["score", "brightness", "sharpness"]
Kind = Literal["drifted", "recovered"]
Test = Literal["sequential", "stability"]

QUANTITIES: Final[tuple[Quantity, ...]] = ("score", "brightness", "sharpness")
LOOKS_PER_WINDOW: Final = 10
"""How often the stability index is looked at while the window is renewed once."""

_TESTS: Final = 2 * len(QUANTITIES)
_QUIET_POWER: Final = 0.4
"""An alarm stays while the evidence is above this power of its limit."""
_QUIET_RATE: Final = 0.01
"""It stays also while the stability index is above what chance exceeds at this rate of looks."""


class DriftSettings(BaseModel):
    """How eager the monitoring is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inspections_per_false_alarm: int = Field(default=100_000, ge=1000)
    """The false-alarm rate of a recipe, all its tests together: one in so many inspections."""
    tolerance: float = Field(default=0.25, ge=0, le=2)
    """Change that is none: of the mean in standard deviations, and of the spread as a share; lots are never alike."""
    window: int = Field(default=500, ge=100, le=100_000, multiple_of=LOOKS_PER_WINDOW)
    """Inspections that the stability index looks back on, and that must be quiet for an alarm to end."""
    baseline: int = Field(default=500, ge=MIN_IMAGES, le=100_000)
    """First inspections that stand in for the calibration where the bundle brings no reference."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A quantity has drifted."""

    test: Test
    """Which test found it."""
    change: Change
    since: datetime
    observation: int
    """Number of the observation that raised it, from 1."""


@dataclass(frozen=True, slots=True)
class QuantityState:
    """How one quantity stands."""

    psi: float | None
    """Stability index of the window; None until it is full."""
    psi_limit: float
    evidence: float
    """Of the sequential test; about 1 on average for every observation without a change."""
    evidence_limit: float
    alarm: Alarm | None

    @property
    def level(self) -> float:
        """How near it is to an alarm: 0 is nothing, 1 is the limit; at least 1 during an alarm."""
        sequential = math.log(max(self.evidence, 1.0)) / math.log(self.evidence_limit)
        level = max(sequential, (self.psi or 0.0) / self.psi_limit)
        return max(level, 1.0) if self.alarm else level


@dataclass(frozen=True, slots=True)
class DriftState:
    """How a recipe stands."""

    recipe: str
    revision: str
    observations: int
    basis: Literal["calibration", "production"]
    """What the parts are compared with: the calibration images or, where there are none, the first parts inspected."""
    learning: bool
    """The first parts are still being collected; there is no state of the quantities yet."""
    quantities: dict[Quantity, QuantityState]

    @property
    def level(self) -> float:
        """The highest of the quantities', for the metric."""
        return max((quantity.level for quantity in self.quantities.values()), default=0.0)

    @property
    def alarm(self) -> bool:
        """Whether any quantity has drifted."""
        return any(quantity.alarm for quantity in self.quantities.values())


@dataclass(frozen=True, slots=True)
class DriftEvent:
    """A quantity of a recipe drifted, or is back."""

    recipe: str
    revision: str
    quantity: Quantity
    kind: Kind
    at: datetime
    alarm: Alarm
    """The alarm that begins or ends here."""
    state: QuantityState

    @property
    def message(self) -> str:
        """For a person."""
        if self.kind == "recovered":
            return (
                f"recipe {self.recipe!r}: the {self.quantity} is back to where it was before {self.alarm.since:%F %R}"
            )
        if self.alarm.test == "sequential":  # which may be before there is a stability index
            found = f"evidence {self.state.evidence:.3g}, limit {self.state.evidence_limit:.3g}"
        else:
            found = f"stability index {self.state.psi:.2f}, limit {self.state.psi_limit:.2f}"
        return f"recipe {self.recipe!r}: the {self.quantity} is {self.alarm.change} than before ({found})"


Listener = Callable[[DriftEvent], None]
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


class QuantityMonitor:
    """Both tests of one quantity, and its alarm.

    Args:
        edges: Its bins.
        images: At calibration.
        settings: How eager to be.
        clock: What time it is.
    """

    def __init__(self, edges: Edges, images: int, settings: DriftSettings, clock: Clock = utc_now) -> None:
        self._masses = masses = gaps(images)
        self._edges = edges
        self._clock = clock
        self._detector = ChangeDetector(masses, settings.tolerance)
        self._window = StabilityWindow(masses, settings.window)
        self._size = settings.window
        self._step = settings.window // LOOKS_PER_WINDOW
        # Each test may raise its share of the false alarms: the e-detectors by their limit, the looks by their chance.
        inspections = _TESTS * settings.inspections_per_false_alarm
        self._evidence_limit = float(inspections)
        bins, window, tolerance = len(masses), settings.window, settings.tolerance
        self._psi_limit = psi_limit(bins, images, window, self._step / inspections, tolerance)
        self._quiet_evidence = self._evidence_limit**_QUIET_POWER
        self._quiet_psi = psi_limit(bins, images, window, _QUIET_RATE, tolerance)
        self._evidence = 0.0
        self._psi: float | None = None
        self._until_look = self._step
        self._observations = 0
        self._quiet = 0
        self.alarm: Alarm | None = None

    @property
    def state(self) -> QuantityState:
        """How it stands."""
        return QuantityState(self._psi, self._psi_limit, self._evidence, self._evidence_limit, self.alarm)

    def observe(self, value: float) -> tuple[Kind, Alarm] | None:
        """Take in a value; answers the alarm that begins or ends with it."""
        index = self._edges.bin(value)
        self._window.add(index)
        self._evidence = self._detector.update(index)
        self._observations += 1
        self._until_look -= 1
        if not self._until_look:
            self._until_look = self._step
            self._psi = self._window.psi()
        if self.alarm:
            return self._stay(self.alarm)
        if self._evidence >= self._evidence_limit:
            return self._raise("sequential")
        if self._psi is not None and self._psi > self._psi_limit:
            return self._raise("stability")
        return None

    def _raise(self, test: Test) -> tuple[Kind, Alarm]:
        sequential = test == "sequential"
        change = self._detector.change if sequential else likeliest_change(self._masses, self._window.counts)
        self.alarm = Alarm(test, change, self._clock(), self._observations)
        # What has changed must not become what later parts are compared with.
        self._detector.learning = False
        self._quiet = 0
        return "drifted", self.alarm

    def _stay(self, alarm: Alarm) -> tuple[Kind, Alarm] | None:
        """Keep the alarm until a whole window was quiet."""
        if self._evidence >= self._evidence_limit:
            self._detector.restart()
        loud = self._evidence >= self._quiet_evidence or (self._psi or 0.0) > self._quiet_psi
        self._quiet = 0 if loud else self._quiet + 1
        if self._quiet < self._size:
            return None
        self.alarm = None
        self._detector.restart()
        self._detector.learning = True
        return "recovered", alarm


class DriftMonitor:
    """Watches one revision of one recipe.

    Args:
        recipe: Its name.
        revision: What tells this version of it, and its bundle, from others.
        reference: Of the bundle's calibration; without one, the first inspections are taken for it.
        settings: How eager to be.
        on_drift: Told when an alarm begins or ends; must not raise.
        clock: What time it is.
    """

    def __init__(
        self,
        recipe: str,
        revision: str,
        reference: Reference | None,
        settings: DriftSettings | None = None,
        on_drift: Listener = lambda _: None,
        clock: Clock = utc_now,
    ) -> None:
        self.recipe = recipe
        self.revision = revision
        self._reference = reference
        self._settings = settings or DriftSettings()
        self._on_drift = on_drift
        self._clock = clock
        self.reset()

    @property
    def state(self) -> DriftState:
        """How the recipe stands."""
        return DriftState(
            recipe=self.recipe,
            revision=self.revision,
            observations=self._observations,
            basis="calibration" if self._reference else "production",
            learning=not self._monitors,
            quantities={quantity: monitor.state for quantity, monitor in self._monitors},
        )

    def reset(self) -> None:
        """Forget all observations and alarms, and tell nobody: for an operator who has put things right."""
        self._observations = 0
        self._baseline: list[tuple[float, float, float]] = []
        self._monitors = self._watch(self._reference) if self._reference else ()

    def observe(self, score: float, brightness: float, sharpness: float) -> None:
        """Take in an inspection.

        Args:
            score: Calibrated.
            brightness: As `atsnet.quality` measures it, of the inspected frame.
            sharpness: Likewise.
        """
        self._observations += 1
        values = (score, brightness, sharpness)
        if not self._monitors:
            self._learn(values)
            return
        for (quantity, monitor), value in zip(self._monitors, values, strict=True):
            if (news := monitor.observe(value)) is not None:
                self._tell(quantity, *news, monitor.state)

    def _learn(self, values: tuple[float, float, float]) -> None:
        if not all(map(math.isfinite, values)):
            return
        self._baseline.append(values)
        if len(self._baseline) == self._settings.baseline:
            self._monitors = self._watch(Reference.of(*zip(*self._baseline, strict=True)))
            self._baseline = []

    def _watch(self, reference: Reference) -> tuple[tuple[Quantity, QuantityMonitor], ...]:
        return tuple(
            (
                quantity,
                QuantityMonitor(getattr(reference, quantity), reference.images, self._settings, self._clock),
            )
            for quantity in QUANTITIES
        )

    def _tell(self, quantity: Quantity, kind: Kind, alarm: Alarm, state: QuantityState) -> None:
        self._on_drift(DriftEvent(self.recipe, self.revision, quantity, kind, self._clock(), alarm, state))


class DriftWatch:
    """The monitors of all recipes, of which there are at most a set number.

    Args:
        on_drift: Told when an alarm of any recipe begins or ends; must not raise.
        settings: How eager to be.
        max_recipes: Beyond so many, the one longest not asked for is no longer watched.
        clock: What time it is.
    """

    def __init__(
        self,
        on_drift: Listener = lambda _: None,
        settings: DriftSettings | None = None,
        max_recipes: int = 64,
        clock: Clock = utc_now,
    ) -> None:
        self._on_drift = on_drift
        self._settings = settings or DriftSettings()
        self._max_recipes = max_recipes
        self._clock = clock
        self._monitors: dict[str, DriftMonitor] = {}

    @property
    def states(self) -> list[DriftState]:
        """How each watched recipe stands."""
        return [monitor.state for monitor in self._monitors.values()]

    def monitor(self, recipe: str, revision: str, reference: Reference | None) -> DriftMonitor:
        """The monitor of a recipe; another revision of it begins anew.

        Args:
            recipe: Its name.
            revision: Of recipe and bundle, as `3 tec-grain-demo/1`.
            reference: The bundle's, if it brings one.
        """
        monitor = self._monitors.pop(recipe, None)
        if monitor is None or monitor.revision != revision:
            monitor = DriftMonitor(recipe, revision, reference, self._settings, self._on_drift, self._clock)
        self._monitors[recipe] = monitor
        if len(self._monitors) > self._max_recipes:
            del self._monitors[next(iter(self._monitors))]
        return monitor

    def find(self, recipe: str) -> DriftMonitor | None:
        """The monitor of a recipe, if it is watched."""
        return self._monitors.get(recipe)
