"""Recipes and bundles: what there is, and what inspects. What changes something is asked once, and never again."""

from collections.abc import Mapping
from datetime import datetime
from typing import NotRequired, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from service.client.calls import Calls
from service.client.management_answers import (
    Drift,
    Gates,
    HeatmapStyle,
    Model,
    ModelList,
    Preview,
    RecipeHistory,
    RecipeList,
    RecipeVersion,
    Roi,
    SelfTests,
)
from service.client.requests import Request
from service.client.responses import read_answer
from service.client.retries import AT_ONCE_OR_NEVER

Answer = TypeVar("Answer", bound=BaseModel)


class RecipeChanges(TypedDict):
    """What a new version of a recipe has of its own; the rest is as in the active version."""

    bundle: NotRequired[str]
    """`name/version`."""
    roi: NotRequired[Roi | None]
    threshold: NotRequired[float]
    review_from: NotRequired[float | None]
    min_side: NotRequired[int]
    max_side: NotRequired[int | None]
    gates: NotRequired[Gates]
    heatmap: NotRequired[HeatmapStyle]


class PreviewOptions(TypedDict):
    """What to try on which inspections; the active version's thresholds, and all inspections, without."""

    threshold: NotRequired[float]
    review_from: NotRequired[float | None]
    since: NotRequired[datetime]
    """With its time zone."""
    until: NotRequired[datetime]
    bundle: NotRequired[str]
    limit: NotRequired[int]
    """Most changes that are listed."""


class AsyncRecipes:
    """The recipes of a service."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def list(self) -> RecipeList:
        """All recipes with all of their versions."""
        return await _get(self._calls, "/v1/recipes", RecipeList)

    async def get(self, name: str) -> RecipeHistory:
        """A recipe with all of its versions.

        Raises:
            UnknownError: There is no such recipe.
            ServiceError: No clear answer came.
        """
        return await _get(self._calls, _recipe(name), RecipeHistory)

    async def create(self, name: str, **changes: Unpack[RecipeChanges]) -> RecipeVersion:
        """Add the next version of a recipe, or a new recipe; it is not active yet.

        Raises:
            FieldError: A value is wrong, or there is no such bundle.
            ServiceError: No clear answer came; whether there is a new version is for `get` to say.
        """
        return await _post(self._calls, "/v1/recipes", RecipeVersion, {"name": name, **changes}, success=201)

    async def activate(
        self, name: str, version: int, *, default: bool = False, timeout_s: float | None = None
    ) -> RecipeVersion:
        """Make a version inspect from now on, and with `default` for requests that name no recipe as well.

        Args:
            name: Of the recipe.
            version: Of the recipe.
            default: Whether it becomes the default one.
            timeout_s: How long its bundle may take to be loaded and tested; as long as any call without.

        Raises:
            ServiceError: It does not inspect, or no clear answer came.
        """
        wanted = {"version": version, "default": default}
        return await _post(self._calls, f"{_recipe(name)}/activate", RecipeVersion, wanted, timeout_s=timeout_s)

    async def preview(self, name: str, **wanted: Unpack[PreviewOptions]) -> Preview:
        """What other thresholds would have done to the recorded inspections; nothing is changed."""
        return await _post(self._calls, f"{_recipe(name)}/preview", Preview, dict(wanted))

    async def drift(self, name: str) -> Drift:
        """How the parts of an active recipe compare with those that it was calibrated on.

        Raises:
            UnknownError: There is no such recipe, or nobody watches it.
            ServiceError: No clear answer came.
        """
        return await _get(self._calls, f"{_recipe(name)}/drift", Drift)

    async def reset_drift(self, name: str) -> Drift:
        """Forget what was seen of a recipe's parts, alarms included, and watch anew."""
        return await _post(self._calls, f"{_recipe(name)}/drift/reset", Drift, None)


class AsyncModels:
    """The bundles of a service."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def list(self) -> tuple[Model, ...]:
        """All bundles in the directory of weights."""
        return (await _get(self._calls, "/v1/models", ModelList)).models

    async def activate(self, name: str, version: str, *, timeout_s: float | None = None) -> Model:
        """Make a bundle inspect its product: each active recipe of that product gets a version that names it.

        Args:
            name: Of the bundle.
            version: Of the bundle.
            timeout_s: How long it may take to be loaded and tested; as long as any call without.

        Raises:
            ServiceError: It does not inspect, or no clear answer came.
        """
        url = f"/v1/models/{quote(name, safe='')}/{quote(version, safe='')}/activate"
        return await _post(self._calls, url, Model, None, timeout_s=timeout_s)

    async def self_test(self, *, timeout_s: float | None = None) -> SelfTests:
        """Have the golden samples of every bundle in service inspected."""
        return await _post(self._calls, "/v1/models/self-test", SelfTests, None, timeout_s=timeout_s)


async def _get(calls: Calls, url: str, kind: type[Answer]) -> Answer:
    return await calls.read(Request("GET", url), lambda response: read_answer(response, kind))


async def _post(
    calls: Calls,
    url: str,
    kind: type[Answer],
    document: Mapping[str, object] | None,
    *,
    success: int = 200,
    timeout_s: float | None = None,
) -> Answer:
    """Ask once: a second request could do a second time what the first one did, unheard."""
    json = None if document is None else to_jsonable_python(document)
    return await calls.read(
        Request("POST", url, json=json),
        lambda response: read_answer(response, kind, success),
        retries=AT_ONCE_OR_NEVER,
        limit_s=timeout_s,
    )


def _recipe(name: str) -> str:
    return f"/v1/recipes/{quote(name, safe='')}"
