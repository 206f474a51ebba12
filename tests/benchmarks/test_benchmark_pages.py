"""The benchmark pages match the stored results of the benchmarks."""

from benchmarks import results


def test_the_pages_match_the_stored_results():
    remedy = "uv run python -m benchmarks.results"
    assert results.PAGE.read_text(encoding="utf-8") == results.page(), remedy
    assert results.RECIPE.read_text(encoding="utf-8") == results.recipe(), remedy
