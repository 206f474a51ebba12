"""Finished experiments and their results, which docs/recipe.md is based on."""
