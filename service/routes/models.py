"""Bundles: which there are, which inspect, and whether they still answer as they were validated."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from model_export.bundle import NAME_PATTERN
from service import examples
from service.recipes.documents import ModelDocument, ModelList, SelfTests
from service.records.audit import actor_of
from service.routes.station import station_of

router = APIRouter(prefix="/v1/models", tags=["models"])

Name = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.get("", summary="List the bundles", responses=examples.NOT_READY)
async def models(request: Request) -> ModelList:
    """All bundles in the directory of weights, with what inspects."""
    return await station_of(request).equipment.management.models()


@router.post("/self-test", summary="Inspect the golden samples", responses=examples.NOT_READY)
async def self_test(request: Request) -> SelfTests:
    """Inspect the golden samples of every bundle in service, the way of every request and beside them.

    A bundle that fails is loaded afresh in its place; if that fails as well, it inspects no more.
    """
    return await station_of(request).equipment.management.self_test()


@router.post("/{name}/{version}/activate", summary="Activate a bundle", responses=examples.CHANGING)
async def activate(request: Request, name: Name, version: Name) -> ModelDocument:
    """Make a bundle inspect its product: each active recipe of that product gets a version that names it.

    The bundle is verified and tested first, beside what inspects. No request fails by the change: those that came
    before are finished with the bundle that they began with.
    """
    return await station_of(request).equipment.management.activate_model(name, version, actor_of(request))
