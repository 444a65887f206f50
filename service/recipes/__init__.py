"""Recipes: how a product is inspected, in versions that never change, one of them active."""

from service.recipes.book import RecipeBook, UnknownRecipeError
from service.recipes.recipe import HeatmapStyle, Recipe, adopt, default_recipe

__all__ = ["HeatmapStyle", "Recipe", "RecipeBook", "UnknownRecipeError", "adopt", "default_recipe"]
