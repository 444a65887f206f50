"""What inspects, and how something else takes its place.

Whatever is activated is loaded, verified and tested first, beside what inspects; only then, with the activation on
disk, does it take over. What fails on the way leaves everything as it was.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from service import problems
from service.bundles import BundleMissingError, Bundles, BundleUnusableError
from service.monitoring.drift import DriftWatch
from service.problems import Problem
from service.recipes import Recipe, default_recipe
from service.recipes.store import ActiveRecipes, RecipeStore, VersionTakenError
from service.records.audit import SERVICE
from service.records.database import RecordError
from service.setups import Edition, LoadedBundle, hold, make_edition, release

log = structlog.get_logger(__name__)

_STAYS: Final = "what was active stays"


class Editions:
    """Keeps the edition that inspects, and replaces it. Belongs to the event loop.

    Args:
        store: Where recipes and activations are kept.
        bundles: Loads and closes bundles.
        max_bundles: Most bundles that active recipes may name.
        publish: Told of every new edition, and of the current one when what may inspect in it has changed.
        watch: What watches for drift, if anything does.
    """

    def __init__(
        self,
        store: RecipeStore,
        bundles: Bundles,
        max_bundles: int,
        publish: Callable[[Edition], None],
        watch: DriftWatch | None = None,
    ) -> None:
        self._store = store
        self._bundles = bundles
        self._max_bundles = max_bundles
        self._publish = publish
        self._watch = watch
        self._preparing: dict[LoadedBundle, asyncio.Task[None]] = {}
        self._edition: Edition | None = None
        self.changing = asyncio.Lock()
        """Held by whoever changes recipes or what inspects."""

    @property
    def current(self) -> Edition:
        """What inspects now."""
        assert self._edition is not None, "it has not been started"
        return self._edition

    async def start(self, bundle: str) -> Edition:
        """Load what was active last; at the very first start, the recipe that a bundle brings along.

        Args:
            bundle: The one for the very first start, `name/version`.

        Raises:
            BundleMissingError: A bundle is missing.
            BundleUnusableError: A bundle is damaged, or not what it was.
            RecordError: The database refuses.
        """
        active = await asyncio.to_thread(self._store.active)
        loaded: dict[str, LoadedBundle] = {}
        if active is None:
            loaded[bundle] = await self._bundles.load(bundle)
            recipe = default_recipe(loaded[bundle].bundle.manifest).model_copy(update={"bundle": bundle})
            active = await asyncio.to_thread(self._begin_with, recipe)
        for name, recipe in active.recipes.items():
            if recipe.bundle not in loaded:
                try:
                    loaded[recipe.bundle] = await self._bundles.load(recipe.bundle)
                except (BundleMissingError, BundleUnusableError) as error:
                    raise type(error)(f"recipe {name!r} version {recipe.version} is active: {error}") from error
        used = active.recipes[active.default].bundle
        if used != bundle:
            log.warning("bundle_setting_ignored", setting=bundle, active=used, recipe=active.default)
        self._edition = make_edition(1, active.recipes, active.default, loaded, self._watch)
        hold(self._edition)
        self._prepare_runtimes()
        return self._edition

    async def close(self) -> None:
        """Give up what is being prepared."""
        for task in self._preparing.values():
            task.cancel()
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)

    def _begin_with(self, recipe: Recipe) -> ActiveRecipes:
        try:
            self._store.write([recipe], {recipe.name: recipe.version}, default=recipe.name, by=SERVICE)
        except VersionTakenError:  # another service began on the same database at the same time
            active = self._store.active()
            assert active is not None
            return active
        return ActiveRecipes({recipe.name: recipe}, recipe.name)

    async def switch(
        self,
        recipes: Mapping[str, Recipe],
        default: str,
        save: Callable[[], None],
        *,
        without: LoadedBundle | None = None,
    ) -> None:
        """Load what is missing beside what inspects, save, and put the new edition in its place.

        What is unfit is missing, and so is what the new edition is to do without. To be called by who holds
        `changing`.

        Raises:
            Problem: A bundle is missing or unusable, there would be too many, or the database refuses.
        """
        needed = {recipe.bundle for recipe in recipes.values()}
        if len(needed) > self._max_bundles:
            names = ", ".join(sorted(needed))
            told = f"active recipes would name {len(needed)} bundles ({names}); max_bundles allows {self._max_bundles}"
            raise wrong("bundle", f"{told}; {_STAYS}")
        before = self.current
        in_service = [setup.loaded for _, setup in before]
        loaded = {one.name: one for one in in_service if one.unfit is None and one is not without}
        fresh: list[LoadedBundle] = []
        try:
            with as_problems():
                for name in sorted(needed - loaded.keys()):
                    loaded[name] = await self._bundles.load(name)
                    loaded[name].hold()
                    fresh.append(loaded[name])
                await asyncio.to_thread(save)
            self._edition = make_edition(before.number + 1, recipes, default, loaded, self._watch)
            hold(self._edition)
            self._publish(self._edition)
            release(before)
            self._prepare_runtimes()
        finally:
            for one in fresh:
                one.release()

    def _prepare_runtimes(self) -> None:
        """Begin with what interim runtimes fill in for."""
        for _, setup in self.current:
            if setup.loaded.interim and setup.loaded not in self._preparing:
                self._preparing[setup.loaded] = asyncio.create_task(self._prepare_runtime(setup.loaded))

    async def _prepare_runtime(self, interim: LoadedBundle) -> None:
        """Prepare the runtime that an interim one fills in for, beside the requests, and put it in its place."""
        told = {"bundle": interim.name, "meanwhile": interim.description.provider}
        log.info("runtime_preparing", **told)
        try:
            await self._bundles.prepare(interim)
            async with self.changing:
                if all(setup.loaded is not interim for _, setup in self.current):
                    return
                recipes = {name: setup.recipe for name, setup in self.current}
                await self.switch(recipes, self.current.default_name, lambda: None, without=interim)
        except (BundleUnusableError, Problem) as error:
            reason = error.detail if isinstance(error, Problem) else str(error)
            log.critical("runtime_not_prepared", reason=reason, **told)
        else:
            log.info("runtime_prepared", bundle=interim.name)

    async def replace(self, loaded: LoadedBundle, why: str) -> str:
        """Put a bundle that failed its golden samples out of service, and a fresh copy of it in, if that passes."""
        async with self.changing:
            loaded.unfit = f"bundle {loaded.name} does not answer as it was validated and must not inspect: {why}"
            self._publish(self.current)
            recipes = {name: setup.recipe for name, setup in self.current}
            try:
                await self.switch(recipes, self.current.default_name, lambda: None)
            except Problem as problem:
                log.critical("bundle_out_of_service", bundle=loaded.name, reason=problem.detail)
                return f"loaded afresh it failed as well, and it inspects no more: {problem.detail}"
        log.warning("bundle_loaded_afresh", bundle=loaded.name)
        return "loaded afresh it passes, and inspects again"


@contextmanager
def as_problems() -> Iterator[None]:
    """Answer what goes wrong with recipes, bundles and their database as a problem."""
    try:
        yield
    except Problem:
        raise
    except BundleMissingError as error:
        raise Problem(problems.UNKNOWN, f"{error}; {_STAYS}") from error
    except BundleUnusableError as error:
        raise wrong("bundle", f"{error}; {_STAYS}") from error
    except ValueError as error:
        raise wrong("recipe", str(error)) from error
    except (RecordError, VersionTakenError) as error:
        raise Problem(problems.FAILED, f"{error}; {_STAYS}") from error
    except Exception as error:  # a runtime may raise anything, such as that there is no memory
        log.exception("change_failed")
        raise Problem(problems.FAILED, f"{type(error).__name__}: {error}; {_STAYS}") from error


def wrong(field: str, detail: str) -> Problem:
    """Code 13."""
    return Problem(problems.WRONG_FIELD, detail, extensions={"field": field})
