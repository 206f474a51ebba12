from collections.abc import Iterator
from pathlib import Path

import pytest

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import SynthPlan
from components.data.drawing.synthetic import synthesise
from components.data.spans import Span
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.inference import untrained
from pipeline.runs import strength
from pipeline.runs.drawn_styles import drawn_style
from tests.support.paths import TINY

pytestmark = pytest.mark.slow


def config(*overrides: str) -> Config:
    return load_config(TINY, ["synth.count=4", *overrides])


@pytest.fixture(scope="module")
def span(tmp_path_factory: pytest.TempPathFactory) -> Span:
    settings = config()
    return synthesise(SynthPlan(settings.captcha, settings.synth, settings.data.splits.model_dump()), tmp_path_factory.mktemp("data"))


def test_pictures_of_the_configured_style_are_known_as_drawn(span: Span) -> None:
    found = drawn_style(config("synth.count=9"), [span])
    assert found is not None
    plan, own = found
    assert own, "the number of pictures is not part of the style"
    assert plan.synth.seed != config().synth.seed, "other pictures than those of the span"
    assert plan.effective_noise_dots == 4


def test_a_section_synth_is_believed_and_said_so(span: Span) -> None:
    for spans in ([], [span]):
        found = drawn_style(config("synth.noise_dots=9"), spans)
        assert found is not None
        assert not found[1]


def test_pictures_that_nothing_draws_have_no_style(span: Span) -> None:
    settings = Config(name="shop", captcha=span.manifest.spec)
    assert drawn_style(settings, []) is None
    assert drawn_style(settings, [span]) is None, "this span is drawn in another style than the default"
    assert drawn_style(config("captcha.charset=あいう"), []) is None, "the library's font has no such characters"


def test_readers_without_training_are_counted_and_their_problems_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(spec: CaptchaSpec) -> Iterator[tuple[str, untrained.Reader]]:
        yield "other", lambda picture: "never asked"
        yield "best", bytes.decode

    def broken(spec: CaptchaSpec) -> Iterator[tuple[str, untrained.Reader]]:
        def fail(picture: bytes) -> str:
            raise CaptchaPipelineError("no language")

        yield "best", fail

    def missing(spec: CaptchaSpec) -> Iterator[tuple[str, untrained.Reader]]:
        raise ImportError
        yield

    readers = {"one": reads, "two": broken, "three": missing}
    monkeypatch.setattr(strength, "READERS", readers)
    monkeypatch.setattr(strength, "BEST", dict.fromkeys(readers, "best"))
    monkeypatch.setattr(strength, "_PREPARATIONS", (untrained.Preparation(),))
    spec = CaptchaSpec(charset="ab", length=2, case_sensitive=False)
    shown = [(b"ab", "ab"), (b"AB", "ab"), (b"aa", "ab"), (b"too long", "ab")]
    lines: list[str] = []
    one, two, three = strength._untrained(spec, shown, 0.95, lines.append)
    assert one.name == "one: best, unchanged"
    assert one.right is not None
    assert one.right.value == 2 / 4
    assert (two.right, two.problem) == (None, "no language")
    assert (three.right, three.problem) == (None, "not installed on this machine")
    assert len(lines) == 3


def test_a_fit_takes_time_to_start_and_for_each_step() -> None:
    assert strength.CpuTime(30.0, 0.5).minutes(180) == 2.0


def test_a_run_without_examples_is_an_error(tmp_path: Path) -> None:
    from pipeline.runs.history import RunRecord

    run = RunRecord("run-1", None, (), None, None, None, None, ())  # type: ignore[arg-type]
    with pytest.raises(CaptchaPipelineError, match="Run run-1 has no examples"):
        strength.strength(config(f"root={tmp_path}"), run, [], lambda line: None)
