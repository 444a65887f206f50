"""What other thresholds would have done to the recorded inspections; counted in the database, no image is touched."""

from collections import Counter
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, case, func, literal, select

from service.recipes.documents import Change, PreviewDocument, PreviewRequest
from service.records.listing import in_period
from service.records.schema import inspections


def preview(
    engine: Engine, recipe: str, threshold: float, review_from: float | None, wanted: PreviewRequest
) -> PreviewDocument:
    """Judge the recorded scores of a recipe again; to be called from a thread.

    Args:
        engine: Of the record database.
        recipe: Its name, whatever the version was.
        threshold: Calibrated score above which a part fails.
        review_from: Calibrated score from which a part that does not fail is for review.
        wanted: Which inspections, and how many to list; its thresholds do not count.
    """
    table = inspections.c
    anew = _verdict(threshold, review_from)
    chosen = _chosen(recipe, wanted)
    counting = select(table.verdict, anew, func.count()).where(chosen).group_by(table.verdict, anew)
    columns = (table.id, table.created, table.station, table.lot, table.serial, table.model, table.model_version)
    listing = (
        select(*columns, table.score, table.verdict.label("was"), anew)
        .where(chosen, anew != table.verdict)
        .order_by(table.id.desc())
        .limit(wanted.limit)
    )
    was: Counter[Any] = Counter()
    would_be: Counter[Any] = Counter()
    changed = 0
    with engine.connect() as connection:
        for before, after, count in connection.execute(counting):
            was[before] += count
            would_be[after] += count
            changed += count * (before != after)
        changes = [Change.model_validate(dict(row)) for row in connection.execute(listing).mappings()]
    return PreviewDocument(
        recipe=recipe,
        threshold=threshold,
        review_from=review_from,
        inspections=was.total(),
        was=dict(was),
        would_be=dict(would_be),
        changed=changed,
        changes=changes,
    )


def _verdict(threshold: float, review_from: float | None) -> ColumnElement[str]:
    """As `verdict.judge`, in terms of the database."""
    score = inspections.c.score
    words = [(score > threshold, literal("fail"))]
    if review_from is not None:
        words.append((score >= review_from, literal("review")))
    return case(*words, else_=literal("pass")).label("would_be")


def _chosen(recipe: str, wanted: PreviewRequest) -> ColumnElement[bool]:
    table = inspections.c
    conditions: list[ColumnElement[bool]] = [table.recipe == recipe, table.score.is_not(None), table.code == 0]
    conditions += in_period(wanted.since, wanted.until)
    if wanted.bundle is not None:
        model, version = wanted.bundle.split("/")
        conditions += [table.model == model, table.model_version == version]
    return and_(*conditions)
