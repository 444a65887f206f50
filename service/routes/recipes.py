"""Recipes: their versions, which of them is active, and what other thresholds would have done."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from model_export.bundle import NAME_PATTERN
from service import examples
from service.monitoring.documents import DriftDocument
from service.recipes.documents import (
    PreviewDocument,
    PreviewRequest,
    RecipeActivation,
    RecipeDocument,
    RecipeDraft,
    RecipeHistory,
    RecipeList,
)
from service.records.audit import actor_of
from service.routes.station import station_of

router = APIRouter(prefix="/v1/recipes", tags=["recipes"])

Name = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.get("", summary="List the recipes", responses=examples.NOT_READY)
async def recipes(request: Request) -> RecipeList:
    """All recipes with all of their versions."""
    return await station_of(request).equipment.management.recipes()


@router.post("", status_code=201, summary="Add a version of a recipe", responses=examples.CHANGING)
async def create(request: Request, draft: RecipeDraft) -> RecipeDocument:
    """Add the next version of a recipe, or a new recipe. It is not active yet, and it never changes."""
    return await station_of(request).equipment.management.create(draft, actor_of(request))


@router.get("/{name}", summary="Read a recipe", responses=examples.READING_BY_NAME)
async def recipe(request: Request, name: Name) -> RecipeHistory:
    """All versions of a recipe, and which is active."""
    return await station_of(request).equipment.management.recipe(name)


@router.post("/{name}/activate", summary="Activate a version of a recipe", responses=examples.CHANGING)
async def activate(request: Request, name: Name, wanted: RecipeActivation) -> RecipeDocument:
    """Make a version inspect from now on. Its bundle is loaded, verified and tested first, beside what inspects.

    No request fails by it: those that came before are finished with the version that they began with.
    """
    management = station_of(request).equipment.management
    return await management.activate_recipe(name, wanted.version, actor_of(request), default=wanted.default)


@router.post("/{name}/preview", summary="Try other thresholds", responses=examples.CHANGING)
async def preview(request: Request, name: Name, wanted: PreviewRequest) -> PreviewDocument:
    """What these thresholds would have done to the recorded inspections of a recipe; nothing is changed."""
    return await station_of(request).equipment.management.preview(name, wanted)


@router.get("/{name}/drift", summary="Read whether a recipe's parts have drifted", responses=examples.READING_BY_NAME)
async def drift(request: Request, name: Name) -> DriftDocument:
    """How score, brightness and sharpness of an active recipe's parts compare with those that it was calibrated on."""
    return await station_of(request).equipment.management.drift(name)


@router.post("/{name}/drift/reset", summary="Watch for drift anew", responses=examples.CHANGING)
async def reset_drift(request: Request, name: Name) -> DriftDocument:
    """Forget what was seen of a recipe's parts, alarms included, once somebody has put things right.

    The audit trail says who did, and how the recipe stood before.
    """
    return await station_of(request).equipment.management.reset_drift(name, actor_of(request))
