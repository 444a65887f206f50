"""What a client may ask of the list of inspections, from the query of its URL."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from service.fields import Name
from service.moments import ISO_8601
from service.problems import WRONG_FIELD, Problem
from service.records.listing import Filters, from_cursor
from service.reply import ReviewWord, VerdictWord


def _in_utc(moment: datetime) -> datetime:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    if not 1970 <= moment.year <= 9998:
        raise ValueError("the year must be between 1970 and 9998")
    return moment


def _is_cursor(cursor: str) -> str:
    from_cursor(cursor)
    return cursor


_Moment = Annotated[datetime, ISO_8601, AfterValidator(_in_utc)]


class ListQuery(BaseModel):
    """Which inspections to list, and from where on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lot: Name | None = Field(default=None, description="Of this lot.")
    serial: Name | None = Field(default=None, description="Of the part with this serial number.")
    station: Name | None = Field(default=None, description="Of this station.")
    recipe: Name | None = Field(default=None, description="By this recipe, of any version.")
    verdict: VerdictWord | None = Field(default=None, description="With this verdict.")
    review: ReviewWord | Literal["none"] | None = Field(
        default=None, description="Whose latest review says this; `none`: without a review."
    )
    since: _Moment | None = Field(default=None, description="Arrived then or later; UTC where no zone is given.")
    until: _Moment | None = Field(default=None, description="Arrived before; UTC where no zone is given.")
    limit: int | None = Field(
        default=None, ge=1, le=1000, description="Most inspections of a page, 100 by default; of CSV, of all."
    )
    cursor: Annotated[str, AfterValidator(_is_cursor)] | None = Field(
        default=None, description="`next` of the page before."
    )

    @property
    def filters(self) -> Filters:
        """Which inspections."""
        return Filters(**self.model_dump(exclude={"limit", "cursor"}))

    @property
    def before(self) -> str | None:
        """The id that the list goes on after."""
        return None if self.cursor is None else from_cursor(self.cursor)


def read_query(given: QueryParams) -> ListQuery:
    """The query of a request; empty fields count as not given.

    Raises:
        Problem: Code 13, naming the field: it is unknown, given twice, or cannot have that value.
    """
    values: dict[str, str] = {}
    for name, value in given.multi_items():
        if name not in ListQuery.model_fields:
            raise wrong(name, f"there is no field {name[:80]!r}; have: {', '.join(ListQuery.model_fields)}")
        if value and values.setdefault(name, value) != value:
            raise wrong(name, f"{name} is given twice, as {values[name][:80]!r} and as {value[:80]!r}")
    try:
        return ListQuery.model_validate(values)
    except ValidationError as error:
        raise wrong_value(error) from error


def wrong_value(error: ValidationError) -> Problem:
    """Code 13 for the first of what a model found to be wrong."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "body"
    return wrong(name, f"{name}: {first['msg']} (got {str(first['input'])[:80]!r})")


def wrong(field: str, detail: str) -> Problem:
    """Code 13."""
    return Problem(WRONG_FIELD, detail, extensions={"field": field[:80]})


def query_parameters() -> list[dict[str, Any]]:
    """The fields, as an OpenAPI document has them."""
    parameters = []
    for name, schema in ListQuery.model_json_schema()["properties"].items():
        choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
        known = choices[0] if len(choices) == 1 else {"anyOf": choices}
        parameters.append({"name": name, "in": "query", "description": schema["description"], "schema": known})
    return parameters
