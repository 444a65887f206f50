"""What requests may ask for by the name of a recipe; it is replaced as a whole, never changed."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

_Entry = TypeVar("_Entry")


class UnknownRecipeError(LookupError):
    """No recipe has that name; the message lists those that exist."""


class RecipeBook(Generic[_Entry]):
    """The active recipes, each with what inspects by it.

    Args:
        number: Which edition this is; later ones have higher numbers.
        entries: By the names of the recipes.
        default: The recipe of requests that name none.
    """

    def __init__(self, number: int, entries: Mapping[str, _Entry], default: str) -> None:
        self.number = number
        self.default_name = default
        self.default = entries[default]
        self._entries = dict(entries)

    def get(self, name: str | None) -> _Entry:
        """The entry of that recipe, or of the default one for none.

        Raises:
            UnknownRecipeError: There is none of that name.
        """
        if name is None:
            return self.default
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownRecipeError(f"there is no recipe {name!r}; have: {', '.join(sorted(self._entries))}") from None

    def find(self, name: str) -> _Entry | None:
        """The entry of that recipe, if there is one."""
        return self._entries.get(name)

    def __iter__(self) -> Iterator[tuple[str, _Entry]]:
        """Names and entries, sorted by name."""
        return iter(sorted(self._entries.items()))
