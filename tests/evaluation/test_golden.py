"""The pushed model that read the golden set best: the record of a push, and the comparison of the next model."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.evaluation import golden
from components.evaluation.gate import ALL, Comparison, Gate, judge
from components.evaluation.golden import Best, GoldenReading, compare, reading
from components.evaluation.metrics import wilson_interval
from components.serving.serving_dir import Pushed, best_on_golden_sets, latest_pushed, push, roll_back, versions
from tests.support.model_folder import make_model

SPEC = CaptchaSpec()
GATE = Gate(min_sequence_accuracy=0.9, max_regression=0.005, max_slice_regression=0.05, confidence=0.95, min_pictures=50)
PICTURES = 1000


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return tmp_path / "serving"


def misreading(*wrong: int, pictures: int = PICTURES, first: int = 0) -> GoldenReading:
    """Returns a reading of a golden set with the digests `first`, `first` + 1, …; `wrong` are the places of the misread pictures."""
    return reading(range(first, first + pictures), (place not in wrong for place in range(pictures)))


class Deployment:
    """A serving folder for models that are only a name and a reading of the golden set."""

    def __init__(self, folder: Path):
        self.serving = folder / "serving"
        self._models = folder / "models"

    def push(self, name: str, mine: GoldenReading, keep: int = 10) -> Pushed:
        model = self._models / name
        return push(model if model.exists() else make_model(model, name), self.serving, keep, mine)

    def best(self, name: str = "the next") -> Best | None:
        """Returns the reading that a model of this name would be compared with."""
        return next(iter(best_on_golden_sets(self.serving, name)), None)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def test_the_order_of_the_pictures_does_not_matter() -> None:
    pictures = {golden.digest(b"picture %d" % i, str(i)): i % 3 > 0 for i in range(9)}
    one = reading(pictures, pictures.values())
    other = reading(reversed(pictures), reversed(pictures.values()))
    assert one == other
    assert one.pictures == 9
    assert len(one.misread) == 3
    corrected = reading([*list(pictures)[:-1], golden.digest(b"picture 8", "8.")], pictures.values())
    assert corrected.content != one.content, "another label is another picture to read"


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans(), st.booleans()), min_size=1))
def test_the_comparison_is_picture_by_picture(rows: list[tuple[int, bool, bool]]) -> None:
    """A picture may occur twice; a model reads both copies the same way."""
    first: dict[int, tuple[bool, bool]] = {}
    rows = [(number, *first.setdefault(number, (ours, theirs))) for number, ours, theirs in rows]
    numbers = [number for number, _, _ in rows]
    mine, other = reading(numbers, [ours for _, ours, _ in rows]), reading(numbers, [theirs for _, _, theirs in rows])
    best = Best(**other.model_dump(), version=17, recipe="f", models=3)
    found = compare(mine, best, 0.95)
    assert (found.version, found.models) == (17, 3)
    assert found.comparison == Comparison(
        len(rows),
        wilson_interval(sum(ours for _, ours, _ in rows), len(rows), 0.95),
        wilson_interval(sum(theirs for _, _, theirs in rows), len(rows), 0.95),
        sum(ours and not theirs for _, ours, theirs in rows),
        sum(theirs and not ours for _, ours, theirs in rows),
    )


def test_no_best_reading_before_the_first_push(serving: Path, deployment: Deployment) -> None:
    assert best_on_golden_sets(serving, "a") == ()
    pushed = deployment.push("a", misreading(1, 2))
    best = deployment.best()
    assert best == Best(**misreading(1, 2).model_dump(), version=pushed.version, recipe="a", models=1)
    assert deployment.best("a") is None, "a model is not compared with itself"
    assert golden.from_json(golden.to_json((best,))) == (best,)


def test_the_best_reading_wins_and_among_equals_the_earliest(deployment: Deployment) -> None:
    for name, wrong in {"a": (1, 2, 3), "b": (4, 5), "c": (6, 7), "d": (1, 2, 3, 4)}.items():
        deployment.push(name, misreading(*wrong))
    best = deployment.best()
    assert best
    assert (best.recipe, best.models) == ("b", 4)


def test_a_push_without_a_golden_set_records_nothing(tmp_path: Path, serving: Path) -> None:
    push(make_model(tmp_path / "a", "a"), serving, 10)
    assert not (serving / golden.RECORD).exists()


def test_a_push_killed_before_its_record_is_recorded_by_the_next_push(deployment: Deployment) -> None:
    first = deployment.push("a", misreading(1))
    (deployment.serving / golden.RECORD).unlink()
    assert deployment.push("a", misreading(1)) == first
    best = deployment.best()
    assert best
    assert best.version == first.version


def test_the_rerun_of_a_model_finds_the_same_best_reading(deployment: Deployment) -> None:
    """Otherwise TFX would evaluate the model again, and after a warm start train it again, although nothing has changed."""
    for i in range(30):
        name = f"model {i}"
        wrong = range(20 + (7 * i) % 11 - i // 2)  # sometimes worse, but better over time
        before = best_on_golden_sets(deployment.serving, name)
        deployment.push(name, misreading(*wrong), keep=3)
        assert best_on_golden_sets(deployment.serving, name) == before


def test_the_best_reading_is_kept_after_its_version_was_removed(deployment: Deployment) -> None:
    first = deployment.push("a", misreading(1), keep=2)
    for i in range(5):
        deployment.push(f"later {i}", misreading(*range(2, 5)), keep=2)
    assert not first.path.exists()
    best = deployment.best()
    assert best
    assert (best.recipe, best.misread, best.models) == ("a", misreading(1).misread, 6)
    (kept,) = json.loads((deployment.serving / golden.RECORD).read_text()).values()
    assert [model["misread"] is not None for model in kept["models"]] == [True, True, False, False, True, True], (
        "pictures are kept of the two best, and of what is in the folder"
    )


def test_a_series_of_slightly_worse_models_is_stopped(deployment: Deployment) -> None:
    """Each model loses two of 1,000 pictures, which is within the margin and may be chance."""
    deployment.push("model 0", misreading())
    for i in range(1, 20):
        mine, production = misreading(*range(2 * i)), misreading(*range(2 * (i - 1)))
        best = deployment.best(f"model {i}")
        assert best
        against = compare(mine, Best(**production.model_dump(), version=1, recipe="production", models=1), 0.95).comparison
        assert judge({ALL: against}, {}, GATE).failures == [], "by the model in production alone it would go on for ever"
        verdict = judge({ALL: against}, {}, GATE, compare(mine, best, 0.95))
        if verdict.failures:
            break
        deployment.push(f"model {i}", mine)
    (failure,) = verdict.failures
    assert "below that of version" in failure
    assert i == 4, "8 pictures of 1,000 lost and none gained: p = 0.008, of 4 models"


@pytest.mark.slow
def test_equally_good_models_continue_to_be_pushed(deployment: Deployment) -> None:
    """Each of 200 models misreads a random 2 % of 1,000 pictures: the best of so many is far above the expected accuracy."""
    rng, stopped, naively = random.Random(1), 0, 0
    for i in range(200):
        mine = misreading(*(place for place in range(PICTURES) if rng.random() < 0.02))
        if best := deployment.best(f"model {i}"):
            so_far = compare(mine, best, 0.95)
            naively += bool(judge({}, {}, GATE, dataclasses.replace(so_far, models=1)).failures)
            stopped += bool(judge({}, {}, GATE, so_far).failures)
        deployment.serving.mkdir(exist_ok=True)
        golden.note(deployment.serving, mine, i, f"model {i}", (), ())
    assert stopped <= 4
    assert naively > 20, "as if the best were any other"


def test_a_withdrawn_model_is_not_compared_until_it_is_restored(deployment: Deployment) -> None:
    a = deployment.push("a", misreading(1, 2, 3))
    b = deployment.push("b", misreading())
    deployment.push("c", misreading(1))
    back = roll_back(deployment.serving, a.version)
    best = deployment.best()
    assert best
    assert (best.recipe, best.version, best.models) == ("a", a.version, 1)
    found = latest_pushed(deployment.serving, "d", SPEC)
    assert found == back
    roll_back(deployment.serving, b.version)
    best = deployment.best()
    assert best
    assert best.recipe == "b"


def test_each_golden_set_has_its_own_best_reading(deployment: Deployment) -> None:
    deployment.push("a", misreading())
    deployment.push("b", misreading(*range(90), first=5000))
    bests = {best.content: best for best in best_on_golden_sets(deployment.serving, "next")}
    assert bests[misreading().content].recipe == "a"
    assert bests[misreading(first=5000).content].recipe == "b"
    assert len(bests) == 2


def test_a_model_that_is_pushed_again_is_recorded_once(deployment: Deployment) -> None:
    deployment.push("a", misreading(1))
    deployment.push("b", misreading(1, 2))
    again = deployment.push("a", misreading(1))
    best = deployment.best()
    assert best
    assert (best.version, best.models) == (again.version, 2)
    assert versions(deployment.serving)[0] == again


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": {"pictures": 1}}', b"\xff"])
def test_a_damaged_record_is_named_with_the_remedy(deployment: Deployment, content: bytes) -> None:
    deployment.push("a", misreading(1))
    (deployment.serving / golden.RECORD).write_bytes(content)
    with pytest.raises(CaptchaPipelineError, match=r"serving/\.golden\.json cannot be read.*Restore it from a backup, or remove it"):
        best_on_golden_sets(deployment.serving, "b")
    (deployment.serving / golden.RECORD).unlink()
    assert deployment.best() is None
