"""Recipes and bundles as people change them: new versions, activations, self-tests, drift."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from model_export.bundle import Manifest
from service import problems
from service.bundles import BundleMissingError, Bundles, BundleUnusableError
from service.editions import Editions, as_problems, wrong
from service.monitoring.documents import DriftDocument, document_of
from service.monitoring.drift import DriftMonitor
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
from service.recipes.store import RecipeStore, Stored
from service.records.audit import Actor, audit
from service.records.database import writing
from service.self_test import SelfTestError, SelfTestImpossibleError, run_self_test_in_service
from service.setups import Edition, LoadedBundle

log = structlog.get_logger(__name__)

_RETRY_AFTER_S: Final = 5


class Management:
    """Changes recipes and bundles, and says how they stand. Belongs to the event loop.

    Args:
        store: Where recipes and activations are kept.
        bundles: Knows what bundles there are.
        editions: What inspects, and what is to be replaced.
        on_failure: Told of every self-test that failed.
    """

    def __init__(
        self, store: RecipeStore, bundles: Bundles, editions: Editions, on_failure: Callable[[], None]
    ) -> None:
        self._store = store
        self._bundles = bundles
        self._editions = editions
        self._on_failure = on_failure

    @property
    def edition(self) -> Edition:
        """What inspects now."""
        return self._editions.current

    async def recipes(self) -> RecipeList:
        """All recipes with all of their versions."""
        with as_problems():
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
        async with self._editions.changing:
            setup = self.edition.find(draft.name)
            active, bundle = None if setup is None else setup.recipe, self.edition.default.recipe.bundle

            def write() -> Recipe:
                version = len(self._store.versions(draft.name)) + 1
                recipe = next_version(draft, version, active, bundle, lambda name: self._bundles.manifest(name)[0])
                self._bundles.manifest(recipe.bundle)
                self._store.write([recipe], {}, by=by)
                return recipe

            with as_problems():
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
        async with self._editions.changing:
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
            raise wrong("review_from", f"review_from {review_from} is above the threshold {threshold}")
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

        with as_problems():
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
        async with self._editions.changing:
            with as_problems():
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
            raise wrong("bundle", f"{told}; make a recipe for it")
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

        await self._editions.switch(recipes, default or self.edition.default_name, save)
        for recipe in changed.values():
            log.info("activated", recipe=recipe.name, version=recipe.version, bundle=recipe.bundle, by=by.name)

    async def _test(self, loaded: LoadedBundle) -> SelfTestDocument:
        samples = len(loaded.bundle.manifest.golden_samples)
        try:
            report = await run_self_test_in_service(loaded)
        except SelfTestImpossibleError as error:
            raise Problem(problems.NOT_READY, str(error), retry_after_s=_RETRY_AFTER_S) from error
        except SelfTestError as error:
            self._on_failure()
            log.critical("self_test_failed", bundle=loaded.name, reason=str(error))
            detail = f"{error}; {await self._editions.replace(loaded, str(error))}"
            return _test_document(loaded, samples, detail=detail)
        log.info("self_test_passed", bundle=loaded.name, largest_difference=report.largest_score_difference)
        loaded.last_test = _test_document(loaded, samples, difference=report.largest_score_difference)
        return loaded.last_test

    async def _versions(self, name: str) -> list[Stored]:
        with as_problems():
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
