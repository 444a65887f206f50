"""Recipes and their activations in the record database: rows are added, never changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, Select, func, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from service.recipes.recipe import Recipe
from service.records.audit import Actor, audit
from service.records.database import RecordError, reason_of, writing
from service.records.schema import recipe_activations, recipe_versions

_KEY: Final = {"name", "version"}


class VersionTakenError(Exception):
    """Another process on the same database has made that version meanwhile."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A recipe with where it came from."""

    recipe: Recipe
    created: datetime
    created_by: str | None


@dataclass(frozen=True, slots=True)
class ActiveRecipes:
    """The active version of every recipe that has one."""

    recipes: dict[str, Recipe]
    default: str


class RecipeStore:
    """Reads and writes recipes; to be called from threads.

    Args:
        engine: Of the record database.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def active(self) -> ActiveRecipes | None:
        """What is active; None before anything was.

        Raises:
            RecordError: The database refuses, or a recipe in it cannot be read.
        """
        last = select(func.max(recipe_activations.c.id)).group_by(recipe_activations.c.name)
        both = recipe_versions.join(
            recipe_activations,
            (recipe_activations.c.name == recipe_versions.c.name)
            & (recipe_activations.c.version == recipe_versions.c.version),
        )
        query = select(recipe_versions).select_from(both).where(recipe_activations.c.id.in_(last))
        chosen = (
            select(recipe_activations.c.name)
            .where(recipe_activations.c.as_default)
            .order_by(recipe_activations.c.id.desc())
            .limit(1)
        )
        try:
            with self.engine.connect() as connection:
                default = connection.execute(chosen).scalar()
                rows = connection.execute(query).all()
        except SQLAlchemyError as error:
            raise _refused(error) from error
        if default is None:
            return None
        return ActiveRecipes({row.name: _stored(row).recipe for row in rows}, default)

    def all(self) -> list[Stored]:
        """Every version of every recipe, by name and version.

        Raises:
            RecordError: As `active`.
        """
        return self._read(select(recipe_versions).order_by(recipe_versions.c.name, recipe_versions.c.version))

    def versions(self, name: str) -> list[Stored]:
        """Every version of a recipe, the oldest first; none for an unknown name.

        Raises:
            RecordError: As `active`.
        """
        return self._read(
            select(recipe_versions).where(recipe_versions.c.name == name).order_by(recipe_versions.c.version)
        )

    def write(
        self,
        new: Sequence[Recipe],
        activated: Mapping[str, int],
        *,
        default: str | None = None,
        by: Actor,
    ) -> None:
        """Add versions and activate some, all of it or nothing.

        Args:
            new: Versions that are not there yet.
            activated: Versions by the names of recipes, which are active from now on.
            default: The one of `activated` that becomes the default recipe.
            by: Who did.

        Raises:
            VersionTakenError: A version is there already.
            RecordError: The database refuses.
        """
        now = datetime.now(UTC)
        try:
            with writing(self.engine) as connection:
                for recipe in new:
                    _add(connection, recipe, now, by)
                for name, version in activated.items():
                    _activate(connection, name, version, now, by, as_default=name == default)
        except IntegrityError as error:
            versions = ", ".join(f"{recipe.name} {recipe.version}" for recipe in new)
            raise VersionTakenError(f"{versions}: another process made this version at the same time") from error
        except SQLAlchemyError as error:
            raise _refused(error) from error

    def _read(self, query: Select[Any]) -> list[Stored]:
        try:
            with self.engine.connect() as connection:
                return [_stored(row) for row in connection.execute(query)]
        except SQLAlchemyError as error:
            raise _refused(error) from error


def _add(connection: Connection, recipe: Recipe, now: datetime, by: Actor) -> None:
    values = {"name": recipe.name, "version": recipe.version, "created": now, "created_by": by.name}
    document = recipe.model_dump(mode="json", exclude=_KEY)
    connection.execute(insert(recipe_versions).values(**values, document=document))
    audit(connection, by, "created", f"recipe/{recipe.name}", new={"version": recipe.version, **document})


def _activate(connection: Connection, name: str, version: int, now: datetime, by: Actor, *, as_default: bool) -> None:
    table = recipe_activations.c
    earlier = select(table.version).where(table.name == name).order_by(table.id.desc()).limit(1)
    before = connection.execute(earlier).scalar()
    row = {"name": name, "version": version, "as_default": as_default, "activated": now, "activated_by": by.name}
    connection.execute(insert(recipe_activations).values(**row))
    old, new = None if before is None else {"version": before}, {"version": version, "default": as_default}
    audit(connection, by, "activated", f"recipe/{name}", old=old, new=new)


def _stored(row: Row[Any]) -> Stored:
    try:
        recipe = Recipe.model_validate({**row.document, "name": row.name, "version": row.version})
    except ValueError as error:
        raise RecordError(f"recipe {row.name!r} version {row.version} in the record database: {error}") from error
    return Stored(recipe, row.created, row.created_by)


def _refused(error: SQLAlchemyError) -> RecordError:
    return RecordError(f"the record database refused: {reason_of(error)}")
