import asyncio
import inspect
from datetime import UTC, datetime
from typing import Any, get_type_hints

import httpx
import pytest
from client_answers import Told, answer, busy
from pydantic import BaseModel
from serving import DEFECTIVE, GOOD, Line

from atsnet import imaging, quality
from service.client import (
    AsyncInspectionClient,
    BusyError,
    FieldError,
    Gates,
    InspectionClient,
    Limits,
    NoAnswerError,
    NotEvaluated,
    Roi,
    UnknownError,
    management,
    management_answers,
    synchronous,
)
from service.monitoring import documents as drift_documents
from service.recipes import documents, recipe


def test_recipe_is_made_activated_and_read_back(line: Line) -> None:
    with InspectionClient(line.url) as client:
        verdict = client.inspect(DEFECTIVE)
        gates = Gates(brightness=Limits(min=1.0))
        made = client.recipes.create("tec-grain", threshold=1.6, review_from=None, roi=None, gates=gates)
        assert (made.version, made.threshold, made.review_from, made.active) == (2, 1.6, None, False)
        assert made.gates.brightness == Limits(min=1.0)
        active = client.recipes.activate("tec-grain", 2, default=True, timeout_s=30)
        assert (active.active, active.default) == (True, True)
        assert client.inspect(DEFECTIVE).passed
        history = client.recipes.get("tec-grain")
        assert (history.active, [version.version for version in history.versions]) == (2, [1, 2])
        assert client.recipes.list().recipes == (history,)
        preview = client.recipes.preview("tec-grain", threshold=1.0, since=datetime(2020, 1, 1, tzinfo=UTC))
        assert (preview.inspections, preview.would_be, preview.changed) == (2, {"fail": 2}, 1)
        assert preview.changes[0].was == "pass"
        assert verdict.verdict == "fail"


def test_what_is_left_out_stays(line: Line) -> None:
    with InspectionClient(line.url) as client:
        client.recipes.create("tec-grain", roi=Roi(x=0, y=0, width=128, height=128), max_side=300)
        client.recipes.activate("tec-grain", 2)
        third = client.recipes.create("tec-grain", threshold=0.9)
        assert (third.version, third.max_side) == (3, 300)
        assert third.roi == Roi(x=0, y=0, width=128, height=128)
        assert client.recipes.create("tec-grain", roi=None).roi is None


def test_refusals(line: Line) -> None:
    with InspectionClient(line.url) as client:
        with pytest.raises(UnknownError):
            client.recipes.get("nut")
        with pytest.raises(UnknownError):
            client.recipes.activate("tec-grain", 9)
        with pytest.raises(FieldError):
            client.recipes.create("tec-grain", threshold=-1.0)
        with pytest.raises(UnknownError):
            client.models.activate("tec-grain-demo", "9")


def test_models(line: Line) -> None:
    with InspectionClient(line.url) as client:
        [model] = client.models.list()
        assert (model.name, model.version, model.state, model.recipes) == (
            "tec-grain-demo",
            "1",
            "active",
            ("tec-grain",),
        )
        tested = client.models.self_test(timeout_s=30)
        assert (tested.passed, tested.bundles[0].samples) == (True, 2)
        assert client.models.list()[0].self_test == tested.bundles[0]
        assert client.models.activate("tec-grain-demo", "1", timeout_s=30).state == "active"


def test_drift(line: Line) -> None:
    with InspectionClient(line.url) as client:
        for number in range(3):
            client.inspect(GOOD, serial=f"A{number}")
        drift = client.recipes.drift("tec-grain")
        assert (drift.recipe, drift.observations, drift.basis, drift.learning) == ("tec-grain", 3, "production", True)
        assert client.recipes.reset_drift("tec-grain").observations == 0
        with pytest.raises(UnknownError):
            client.recipes.drift("nut")


def test_asynchronous_client(line: Line) -> None:
    async def scenario() -> None:
        async with AsyncInspectionClient(line.url) as client:
            assert (await client.inspect(GOOD)).passed
            assert (await client.recipes.list()).default == "tec-grain"
            assert (await client.models.list())[0].state == "active"
            assert (await client.recipes.create("tec-grain")).version == 2
            assert (await client.recipes.preview("tec-grain")).inspections == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("told", "error"), [(httpx.ReadError("reset"), NoAnswerError), (busy(), BusyError)], ids=["broken", "busy"]
)
def test_changes_are_asked_once(told: Any, error: type[Exception]) -> None:
    service = Told(told)
    with InspectionClient("http://station", transport=service) as client:
        for change in (
            lambda: client.recipes.create("tec-grain"),
            lambda: client.recipes.activate("tec-grain", 2),
            lambda: client.recipes.reset_drift("tec-grain"),
            lambda: client.models.activate("tec-grain-demo", "2"),
        ):
            with pytest.raises(error):
                change()
    assert len(service.requests) == 4


def test_made_version_is_status_201_alone() -> None:
    service = Told(answer({}, 200))
    with InspectionClient("http://station", transport=service) as client, pytest.raises(NotEvaluated, match="201 was"):
        client.recipes.create("tec-grain")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (management_answers.Roi, imaging.Roi),
        (management_answers.Limits, quality.Limits),
        (management_answers.Gates, quality.Gates),
        (management_answers.HeatmapStyle, recipe.HeatmapStyle),
        (management_answers.RecipeVersion, documents.RecipeDocument),
        (management_answers.RecipeHistory, documents.RecipeHistory),
        (management_answers.RecipeList, documents.RecipeList),
        (management_answers.Change, documents.Change),
        (management_answers.Preview, documents.PreviewDocument),
        (management_answers.DriftAlarm, drift_documents.AlarmDocument),
        (management_answers.DriftQuantity, drift_documents.QuantityDocument),
        (management_answers.Drift, drift_documents.DriftDocument),
        (management_answers.SelfTest, documents.SelfTestDocument),
        (management_answers.SelfTests, documents.SelfTests),
        (management_answers.Model, documents.ModelDocument),
        (management_answers.ModelList, documents.ModelList),
    ],
)
def test_documents_are_those_of_the_service(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    assert set(ours.model_fields) == set(theirs.model_fields)


def test_options_are_those_of_the_service() -> None:
    assert set(get_type_hints(management.RecipeChanges)) == set(documents.RecipeDraft.model_fields) - {"name"}
    assert set(get_type_hints(management.PreviewOptions)) == set(documents.PreviewRequest.model_fields)


@pytest.mark.parametrize(
    ("blocking", "other"),
    [(synchronous.Recipes, management.AsyncRecipes), (synchronous.Models, management.AsyncModels)],
)
def test_both_clients_have_the_same_methods(blocking: type, other: type) -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in found if name[0] != "_"}

    assert methods(blocking) == methods(other)
