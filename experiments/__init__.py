"""Finished experiments, with their results: what docs/recipe.md rests on."""
