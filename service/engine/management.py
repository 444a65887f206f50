"""Recipes and bundles across processes: a worker's route asks, the engine does."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from service import problems
from service.engine.session import EngineLostError, Session
from service.front import Manages
from service.monitoring.documents import DriftDocument
from service.problems import Problem
from service.recipes.documents import (
    ModelDocument,
    ModelList,
    PreviewDocument,
    PreviewRequest,
    RecipeDocument,
    RecipeDraft,
    RecipeHistory,
    RecipeList,
    SelfTests,
)
from service.records.audit import Actor
from service.refusals import RETRY_AFTER_S

_Document = TypeVar("_Document", bound=BaseModel)


class RemoteManagement:
    """Has the engine change recipes and bundles; see `management.Management`.

    An activation takes as long as it takes: nothing waits for it here but the one who asked.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def recipes(self) -> RecipeList:
        """See `Manages`."""
        return await self._ask(RecipeList, "recipes")

    async def recipe(self, name: str) -> RecipeHistory:
        """See `Manages`."""
        return await self._ask(RecipeHistory, "recipe", name=name)

    async def create(self, draft: RecipeDraft, by: Actor) -> RecipeDocument:
        """See `Manages`."""
        return await self._ask(RecipeDocument, "create", draft=_said(draft), by=_named(by))

    async def activate_recipe(self, name: str, version: int, by: Actor, *, default: bool = False) -> RecipeDocument:
        """See `Manages`."""
        given: dict[str, Any] = {"name": name, "version": version, "default": default}
        return await self._ask(RecipeDocument, "activate_recipe", **given, by=_named(by))

    async def preview(self, name: str, wanted: PreviewRequest) -> PreviewDocument:
        """See `Manages`."""
        return await self._ask(PreviewDocument, "preview", name=name, wanted=_said(wanted))

    async def drift(self, name: str) -> DriftDocument:
        """See `Manages`."""
        return await self._ask(DriftDocument, "drift", name=name)

    async def reset_drift(self, name: str, by: Actor) -> DriftDocument:
        """See `Manages`."""
        return await self._ask(DriftDocument, "reset_drift", name=name, by=_named(by))

    async def models(self) -> ModelList:
        """See `Manages`."""
        return await self._ask(ModelList, "models")

    async def activate_model(self, name: str, version: str, by: Actor) -> ModelDocument:
        """See `Manages`."""
        return await self._ask(ModelDocument, "activate_model", name=name, version=version, by=_named(by))

    async def self_test(self) -> SelfTests:
        """See `Manages`."""
        return await self._ask(SelfTests, "self_test")

    async def _ask(self, kind: type[_Document], operation: str, **arguments: Any) -> _Document:
        try:
            blob = await self._session.call("manage", operation=operation, arguments=arguments)
        except EngineLostError as error:
            detail = f"{error}; whether it was done, GET /v1/recipes says once the service is ready again"
            raise Problem(problems.NOT_READY, detail, retry_after_s=RETRY_AFTER_S) from error
        return kind.model_validate_json(blob.data or b"")


async def carry_out(management: Manages, operation: str, arguments: dict[str, Any]) -> BaseModel:
    """Do what a `RemoteManagement` asked for.

    Raises:
        Problem: It cannot be done.
    """
    given = {name: _READERS.get(name, _as_it_is)(value) for name, value in arguments.items()}
    operations: dict[str, Callable[..., Awaitable[BaseModel]]] = {
        "recipes": management.recipes,
        "recipe": management.recipe,
        "create": management.create,
        "activate_recipe": management.activate_recipe,
        "preview": management.preview,
        "drift": management.drift,
        "reset_drift": management.reset_drift,
        "models": management.models,
        "activate_model": management.activate_model,
        "self_test": management.self_test,
    }
    return await operations[operation](**given)


def _said(request: BaseModel) -> dict[str, Any]:
    # What was left out means something else than a default that was said.
    return request.model_dump(mode="json", exclude_unset=True)


def _named(actor: Actor) -> list[str | None]:
    return [actor.name, actor.role]


def _as_it_is(value: Any) -> Any:
    return value


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "draft": RecipeDraft.model_validate,
    "wanted": PreviewRequest.model_validate,
    "by": lambda parts: Actor(*parts),
}
