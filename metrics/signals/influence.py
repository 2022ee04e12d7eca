"""Token influences: weights of the continuation's tokens that the pass computes while it reads a text."""

from metrics.core import raw
from metrics.recipes import RECIPES

for _name, _recipe in RECIPES.items():
    raw(_name, axes=("token",), unit="1", cost="influence", summary=_recipe.summary)
