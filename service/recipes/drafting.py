"""The next version of a recipe, from what a person says of it."""

from collections.abc import Callable

from model_export.bundle import Manifest
from service.recipes.documents import RecipeDraft
from service.recipes.recipe import Recipe, adopt, default_recipe


def next_version(
    draft: RecipeDraft, version: int, active: Recipe | None, bundle: str, manifest_of: Callable[[str], Manifest]
) -> Recipe:
    """What the draft says; the rest as in the active version or, where there is none, as its bundle has it.

    Args:
        draft: What a person says.
        version: Its number.
        active: The version that is active.
        bundle: For a recipe without an active version and a draft that names none.
        manifest_of: Of a bundle by its name, `name/version`.

    Raises:
        ValueError: The parts do not fit each other.
    """
    if active is None:
        chosen = draft.bundle or bundle
        base = default_recipe(manifest_of(chosen))
    else:
        chosen = draft.bundle or active.bundle
        base = active if chosen == active.bundle else adopt(active, manifest_of(active.bundle), manifest_of(chosen))
    said = {name: getattr(draft, name) for name in draft.model_fields_set}
    return Recipe.model_validate({**dict(base), **said, "name": draft.name, "version": version, "bundle": chosen})
