"""Recipes and bundles as people change them: new versions, activations, self-tests.

Whatever is activated is loaded, verified and tested first, beside what inspects; only then, with the activation on
disk, does it take over. What fails on the way leaves everything as it was.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import structlog

from model_export.bundle import Manifest
from service import problems
from service.bundles import BundleMissingError, Bundles, BundleUnusableError
from service.monitoring.documents import DriftDocument, document_of
from service.monitoring.drift import DriftMonitor, DriftWatch
from service.problems import Problem
from service.recipes import Recipe, adopt, default_recipe
from service.recipes.documents import (
    ModelDocument,
    ModelList,
    PreviewDocument,
    PreviewRequest,
    RecipeDocument,
    RecipeDraft,
    RecipeHistory,
    RecipeList,
    SelfTestDocument,
    SelfTests,
)
from service.recipes.drafting import next_version
from service.recipes.preview import preview
from service.recipes.store import ActiveRecipes, RecipeStore, Stored, VersionTakenError
from service.records.audit import SERVICE, Actor, audit
from service.records.database import RecordError, writing
from service.self_test import SelfTestError, SelfTestImpossibleError, run_self_test_in_service
from service.setups import Edition, LoadedBundle, hold, make_edition, release

log = structlog.get_logger(__name__)

_RETRY_AFTER_S: Final = 5
_STAYS: Final = "what was active stays"


class Management:
    """Keeps the edition that inspects, and replaces it. Belongs to the event loop.

    Args:
        store: Where recipes and activations are kept.
        bundles: Loads and closes bundles.
        max_bundles: Most bundles that active recipes may name.
        publish: Told of every new edition, and of the current one when what may inspect in it has changed.
        on_failure: Told of every self-test that failed.
        watch: What watches for drift, if anything does.
    """

    def __init__(
        self,
        store: RecipeStore,
        bundles: Bundles,
        max_bundles: int,
        publish: Callable[[Edition], None],
        on_failure: Callable[[], None],
        watch: DriftWatch | None = None,
    ) -> None:
        self._store = store
        self._bundles = bundles
        self._max_bundles = max_bundles
        self._publish = publish
        self._on_failure = on_failure
        self._watch = watch
        self._changing = asyncio.Lock()
        self._preparing: dict[LoadedBundle, asyncio.Task[None]] = {}
        self._edition: Edition | None = None

    @property
    def edition(self) -> Edition:
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

    async def recipes(self) -> RecipeList:
        """All recipes with all of their versions."""
        with _as_problems():
            stored = await asyncio.to_thread(self._store.all)
        names = sorted({one.recipe.name for one in stored})
        histories = [self._history(name, [one for one in stored if one.recipe.name == name]) for name in names]
        return RecipeList(default=self.edition.default_name, recipes=histories)

    async def recipe(self, name: str) -> RecipeHistory:
        """All versions of a recipe.

        Raises:
            Problem: Code 20: there is none of that name.
        """
        return self._history(name, await self._versions(name))

    async def create(self, draft: RecipeDraft, by: Actor) -> RecipeDocument:
        """Add a version, which is not active yet.

        Raises:
            Problem: Code 13: a part of it does not fit. Code 20: there is no such bundle.
        """
        async with self._changing:
            setup = self.edition.find(draft.name)
            active, bundle = None if setup is None else setup.recipe, self.edition.default.recipe.bundle

            def write() -> Recipe:
                version = len(self._store.versions(draft.name)) + 1
                recipe = next_version(draft, version, active, bundle, lambda name: self._bundles.manifest(name)[0])
                self._bundles.manifest(recipe.bundle)
                self._store.write([recipe], {}, by=by)
                return recipe

            with _as_problems():
                recipe = await asyncio.to_thread(write)
        log.info("recipe_created", recipe=recipe.name, version=recipe.version, by=by.name)
        return self._document(Stored(recipe, datetime.now(UTC), by.name))

    async def activate_recipe(self, name: str, version: int, by: Actor, *, default: bool = False) -> RecipeDocument:
        """Make a version inspect from now on.

        Args:
            name: Of the recipe.
            version: Of the recipe.
            by: Who wants it.
            default: Whether requests that name no recipe get it from now on.

        Raises:
            Problem: Code 20: there is no such version, or its bundle is missing. Code 13: its bundle is unusable.
        """
        async with self._changing:
            versions = await self._versions(name)
            stored = next((one for one in versions if one.recipe.version == version), None)
            if stored is None:
                have = ", ".join(str(one.recipe.version) for one in versions)
                raise Problem(problems.UNKNOWN, f"recipe {name!r} has no version {version}; has: {have}")
            await self._activate({name: stored.recipe}, [], name if default else None, by)
        return self._document(stored)

    async def preview(self, name: str, wanted: PreviewRequest) -> PreviewDocument:
        """What other thresholds would have done to the recorded inspections of a recipe.

        Raises:
            Problem: Code 20: there is no such recipe. Code 13: the thresholds do not fit each other.
        """
        setup = self.edition.find(name)
        basis = (await self._versions(name))[-1].recipe if setup is None else setup.recipe
        threshold = basis.threshold if wanted.threshold is None else wanted.threshold
        review_from = wanted.review_from if "review_from" in wanted.model_fields_set else basis.review_from
        if review_from is not None and review_from > threshold:
            raise _wrong("review_from", f"review_from {review_from} is above the threshold {threshold}")
        return await asyncio.to_thread(preview, self._store.engine, name, threshold, review_from, wanted)

    async def drift(self, name: str) -> DriftDocument:
        """How the parts of an active recipe compare with those that it was calibrated on.

        Raises:
            Problem: Code 20: there is no such recipe, or nothing is watched.
        """
        return document_of(self._monitor(name).state)

    async def reset_drift(self, name: str, by: Actor) -> DriftDocument:
        """Forget what was seen of an active recipe's parts, alarms included: somebody has put things right.

        Raises:
            Problem: Code 20: there is no such recipe, or nothing is watched.
        """
        monitor = self._monitor(name)
        before = document_of(monitor.state)

        def write() -> None:
            with writing(self._store.engine) as connection:
                audit(connection, by, "reset", f"drift/{name}", old=before.model_dump(mode="json"))

        with _as_problems():
            await asyncio.to_thread(write)
        monitor.reset()
        log.info("drift_reset", recipe=name, level=before.level, by=by.name)
        return document_of(monitor.state)

    def _monitor(self, name: str) -> DriftMonitor:
        setup = self.edition.find(name)
        if setup is None:
            have = ", ".join(name for name, _ in self.edition)
            raise Problem(problems.UNKNOWN, f"there is no active recipe {name[:64]!r}; active: {have}")
        if setup.drift is None:
            raise Problem(problems.UNKNOWN, "nothing is watched for drift (setting drift_inspections)")
        return setup.drift

    async def models(self) -> ModelList:
        """All bundles under the directory of weights."""
        return ModelList(models=await asyncio.to_thread(lambda: [self._model(name) for name in self._bundles.names()]))

    async def activate_model(self, name: str, version: str, by: Actor) -> ModelDocument:
        """Make a bundle inspect its product: each active recipe of that product gets a version that names it.

        Args:
            name: Of the bundle.
            version: Of the bundle.
            by: Who wants it.

        Raises:
            Problem: As `activate_recipe`.
        """
        bundle = f"{name}/{version}"
        async with self._changing:
            with _as_problems():
                manifest, _ = await asyncio.to_thread(self._bundles.manifest, bundle)
                new = await asyncio.to_thread(self._with_bundle, bundle, manifest)
            await self._activate({recipe.name: recipe for recipe in new}, new, None, by)
        return await asyncio.to_thread(self._model, bundle)

    async def self_test(self) -> SelfTests:
        """Inspect the golden samples of every bundle in service, through its queue and beside the requests.

        A bundle that fails is loaded afresh in its place. If that fails as well, it inspects no more.

        Raises:
            Problem: Code 40: they could not be inspected; the service is too busy, or stops.
        """
        loaded = {id(setup.loaded): setup.loaded for _, setup in self.edition}.values()
        tests = [await self._test(one) for one in loaded]
        return SelfTests(passed=all(test.passed for test in tests), bundles=tests)

    def _with_bundle(self, bundle: str, manifest: Manifest) -> list[Recipe]:
        of_product = [setup for _, setup in self.edition if setup.bundle.manifest.product == manifest.product]
        if not of_product and self.edition.find(manifest.product) is not None:
            told = f"{bundle} is for {manifest.product!r}, and the recipe of that name inspects another product"
            raise _wrong("bundle", f"{told}; make a recipe for it")
        changed = [
            adopt(setup.recipe, setup.bundle.manifest, manifest)
            for setup in of_product
            if setup.recipe.bundle != bundle
        ]
        if not of_product:
            changed = [default_recipe(manifest)]
        numbers = {recipe.name: len(self._store.versions(recipe.name)) + 1 for recipe in changed}
        return [recipe.model_copy(update={"bundle": bundle, "version": numbers[recipe.name]}) for recipe in changed]

    async def _activate(
        self, changed: Mapping[str, Recipe], new: Sequence[Recipe], default: str | None, by: Actor
    ) -> None:
        recipes = {**{name: setup.recipe for name, setup in self.edition}, **changed}
        versions = {name: recipe.version for name, recipe in changed.items()}

        def save() -> None:
            if versions:
                self._store.write(new, versions, default=default, by=by)

        await self._switch(recipes, default or self.edition.default_name, save)
        for recipe in changed.values():
            log.info("activated", recipe=recipe.name, version=recipe.version, bundle=recipe.bundle, by=by.name)

    async def _switch(
        self,
        recipes: Mapping[str, Recipe],
        default: str,
        save: Callable[[], None],
        *,
        without: LoadedBundle | None = None,
    ) -> None:
        """Load what is missing beside what inspects, save, and put the new edition in its place.

        What is unfit is missing, and so is what the new edition is to do without.
        """
        needed = {recipe.bundle for recipe in recipes.values()}
        if len(needed) > self._max_bundles:
            names = ", ".join(sorted(needed))
            told = f"active recipes would name {len(needed)} bundles ({names}); max_bundles allows {self._max_bundles}"
            raise _wrong("bundle", f"{told}; {_STAYS}")
        before = self.edition
        in_service = [setup.loaded for _, setup in before]
        loaded = {one.name: one for one in in_service if one.unfit is None and one is not without}
        fresh: list[LoadedBundle] = []
        try:
            with _as_problems():
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
        for _, setup in self.edition:
            if setup.loaded.interim and setup.loaded not in self._preparing:
                self._preparing[setup.loaded] = asyncio.create_task(self._prepare_runtime(setup.loaded))

    async def _prepare_runtime(self, interim: LoadedBundle) -> None:
        """Prepare the runtime that an interim one fills in for, beside the requests, and put it in its place."""
        told = {"bundle": interim.name, "meanwhile": interim.description.provider}
        log.info("runtime_preparing", **told)
        try:
            await self._bundles.prepare(interim)
            async with self._changing:
                if all(setup.loaded is not interim for _, setup in self.edition):
                    return
                recipes = {name: setup.recipe for name, setup in self.edition}
                await self._switch(recipes, self.edition.default_name, lambda: None, without=interim)
        except (BundleUnusableError, Problem) as error:
            reason = error.detail if isinstance(error, Problem) else str(error)
            log.critical("runtime_not_prepared", reason=reason, **told)
        else:
            log.info("runtime_prepared", bundle=interim.name)

    async def _test(self, loaded: LoadedBundle) -> SelfTestDocument:
        samples = len(loaded.bundle.manifest.golden_samples)
        try:
            report = await run_self_test_in_service(loaded)
        except SelfTestImpossibleError as error:
            raise Problem(problems.NOT_READY, str(error), retry_after_s=_RETRY_AFTER_S) from error
        except SelfTestError as error:
            self._on_failure()
            log.critical("self_test_failed", bundle=loaded.name, reason=str(error))
            detail = f"{error}; {await self._replace(loaded, str(error))}"
            return _test_document(loaded, samples, detail=detail)
        log.info("self_test_passed", bundle=loaded.name, largest_difference=report.largest_score_difference)
        loaded.last_test = _test_document(loaded, samples, difference=report.largest_score_difference)
        return loaded.last_test

    async def _replace(self, loaded: LoadedBundle, why: str) -> str:
        """Put a bundle that failed its golden samples out of service, and a fresh copy of it in, if that passes."""
        async with self._changing:
            loaded.unfit = f"bundle {loaded.name} does not answer as it was validated and must not inspect: {why}"
            self._publish(self.edition)
            recipes = {name: setup.recipe for name, setup in self.edition}
            try:
                await self._switch(recipes, self.edition.default_name, lambda: None)
            except Problem as problem:
                log.critical("bundle_out_of_service", bundle=loaded.name, reason=problem.detail)
                return f"loaded afresh it failed as well, and it inspects no more: {problem.detail}"
        log.warning("bundle_loaded_afresh", bundle=loaded.name)
        return "loaded afresh it passes, and inspects again"

    async def _versions(self, name: str) -> list[Stored]:
        with _as_problems():
            versions = await asyncio.to_thread(self._store.versions, name)
        if not versions:
            have = ", ".join(name for name, _ in self.edition)
            raise Problem(problems.UNKNOWN, f"there is no recipe {name[:64]!r}; active: {have}")
        return versions

    def _history(self, name: str, stored: Sequence[Stored]) -> RecipeHistory:
        setup = self.edition.find(name)
        return RecipeHistory(
            name=name,
            active=None if setup is None else setup.recipe.version,
            default=name == self.edition.default_name,
            versions=[self._document(one) for one in stored],
        )

    def _document(self, stored: Stored) -> RecipeDocument:
        recipe = stored.recipe
        setup = self.edition.find(recipe.name)
        active = setup is not None and setup.recipe.version == recipe.version
        default = active and recipe.name == self.edition.default_name
        return RecipeDocument(
            **dict(recipe), created=stored.created, created_by=stored.created_by, active=active, default=default
        )

    def _model(self, bundle: str) -> ModelDocument:
        name, version = bundle.split("/")
        using = [setup for _, setup in self.edition if setup.recipe.bundle == bundle]
        loaded = using[0].loaded if using else None
        if loaded is not None:
            manifest, digest = loaded.bundle.manifest, loaded.bundle.digest
        else:
            try:
                manifest, digest = self._bundles.manifest(bundle)
            except (BundleMissingError, BundleUnusableError) as error:
                return ModelDocument(name=name, version=version, state="unreadable", detail=str(error))
        return ModelDocument(
            name=name,
            version=version,
            state="available" if loaded is None else "unfit" if loaded.unfit else "active",
            product=manifest.product,
            digest=digest,
            created=manifest.created,
            precisions=sorted(manifest.graphs),
            recipes=[setup.recipe.name for setup in using],
            metrics=manifest.metrics,
            self_test=None if loaded is None else loaded.last_test,
            detail=None if loaded is None else loaded.unfit,
        )


def _test_document(
    loaded: LoadedBundle, samples: int, *, difference: float | None = None, detail: str | None = None
) -> SelfTestDocument:
    return SelfTestDocument(
        bundle=loaded.name,
        passed=detail is None,
        samples=samples,
        largest_score_difference=difference,
        at=datetime.now(UTC),
        detail=detail,
    )


@contextmanager
def _as_problems() -> Iterator[None]:
    """Answer what goes wrong with recipes, bundles and their database as a problem."""
    try:
        yield
    except Problem:
        raise
    except BundleMissingError as error:
        raise Problem(problems.UNKNOWN, f"{error}; {_STAYS}") from error
    except BundleUnusableError as error:
        raise _wrong("bundle", f"{error}; {_STAYS}") from error
    except ValueError as error:
        raise _wrong("recipe", str(error)) from error
    except (RecordError, VersionTakenError) as error:
        raise Problem(problems.FAILED, f"{error}; {_STAYS}") from error
    except Exception as error:  # a runtime may raise anything, such as that there is no memory
        log.exception("change_failed")
        raise Problem(problems.FAILED, f"{type(error).__name__}: {error}; {_STAYS}") from error


def _wrong(field: str, detail: str) -> Problem:
    return Problem(problems.WRONG_FIELD, detail, extensions={"field": field})
