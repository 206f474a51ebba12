"""The pages of figures say what the benchmarks left."""

from benchmarks import results


def test_the_pages_are_those_of_the_kept_figures():
    remedy = "uv run python -m benchmarks.results"
    assert results.PAGE.read_text(encoding="utf-8") == results.page(), remedy
    assert results.RECIPE.read_text(encoding="utf-8") == results.recipe(), remedy
