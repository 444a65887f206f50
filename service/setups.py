"""What inspects: bundles in service, and what a request is decoded, scored, judged and recorded by.

A request takes one setup when it comes and keeps it to its record, whatever is activated meanwhile. Setups never
change; an activation puts a new edition of all of them in the place of the old one, between two turns of the event
loop. A bundle is closed when nobody holds it any more: no edition, no worker that still has an old edition, no request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from atsnet.imaging import InputGeometry
from atsnet.quality import Gates
from model_export.bundle import Bundle
from service.monitoring.drift import DriftMonitor, DriftWatch
from service.recipes import HeatmapStyle, Recipe, RecipeBook
from service.recipes.documents import SelfTestDocument
from service.runtimes.protocol import Runtime
from service.scheduler import Scheduler


class Plan(BaseModel):
    """What images are decoded by, in whatever process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    geometry: InputGeometry
    """Of the bundle that the recipe names."""
    map_height: int
    map_width: int
    with_quality: bool
    """Whether somebody wants to know brightness, contrast, sharpness and exposure."""


class LoadedBundle:
    """A verified bundle on a warm runtime, with its queue. Belongs to the event loop.

    Args:
        name: `name/version`, as recipes have it.
        bundle: What inspects.
        runtime: Loaded with it.
        scheduler: Feeds the runtime; started.
        on_unused: Told when the last holder has let go.
        interim: Whether the runtime is only to fill in until the one that is wanted is prepared.
    """

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        runtime: Runtime,
        scheduler: Scheduler,
        on_unused: Callable[["LoadedBundle"], None],
        *,
        interim: bool = False,
    ) -> None:
        self.name = name
        self.bundle = bundle
        self.runtime = runtime
        self.description = runtime.describe()
        self.scheduler = scheduler
        self.interim = interim
        self.unfit: str | None = None
        """Why it must not inspect: its golden samples are no longer answered as they were validated."""
        self.last_test: SelfTestDocument | None = None
        """Of the golden samples, since it serves."""
        self._on_unused = on_unused
        self._holders = 0

    @property
    def capacity(self) -> int:
        """Frames that its runtime computes at once."""
        return self.description.lanes * self.description.max_batch

    def hold(self) -> None:
        """Keep it from being closed."""
        self._holders += 1

    def release(self) -> None:
        """Let go of it; the last to do so has it closed."""
        self._holders -= 1
        if self._holders == 0:
            self._on_unused(self)


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """An active recipe with the bundle that it names."""

    plan: Plan
    loaded: LoadedBundle
    drift: DriftMonitor | None
    """What watches its verdicts, if anything does."""
    style: HeatmapStyle | None
    """Of its pictures, where it is not the default one."""

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.plan.recipe

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self.loaded.bundle


Edition = RecipeBook[Setup]
"""All setups of one time."""


def make_edition(
    number: int,
    recipes: Mapping[str, Recipe],
    default: str,
    loaded: Mapping[str, LoadedBundle],
    watch: DriftWatch | None,
) -> Edition:
    """An edition of active recipes.

    Args:
        number: Its number.
        recipes: By their names.
        default: Name of the recipe of requests that name none.
        loaded: All bundles that they name.
        watch: What watches for drift; a recipe that is as it was before is watched on.
    """
    setups = {}
    for name, recipe in recipes.items():
        used = loaded[recipe.bundle]
        manifest = used.bundle.manifest
        plan = Plan(
            recipe=recipe,
            geometry=manifest.input,
            map_height=manifest.map_height,
            map_width=manifest.map_width,
            with_quality=watch is not None or recipe.gates != Gates(),
        )
        monitor = None
        if watch is not None:
            # Another region of the image is not what the bundle was calibrated on.
            reference = manifest.reference if recipe.roi is None else None
            monitor = watch.monitor(name, f"{recipe.version} {recipe.bundle} {used.bundle.digest[:12]}", reference)
        setups[name] = Setup(plan, used, monitor, None if recipe.heatmap == HeatmapStyle() else recipe.heatmap)
    return Edition(number, setups, default)


def hold(edition: Edition) -> None:
    """Keep every bundle of an edition from being closed."""
    for _, setup in edition:
        setup.loaded.hold()


def release(edition: Edition) -> None:
    """Let go of every bundle of an edition."""
    for _, setup in edition:
        setup.loaded.release()
