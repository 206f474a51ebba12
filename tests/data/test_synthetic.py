import io
import json
import random
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captcha.image import DEFAULT_FONTS, ImageCaptcha
from PIL import Image
from typer.testing import CliRunner

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing import synthetic_beam
from components.data.drawing.painting import CaptchaPainter, find_fonts
from components.data.drawing.synthetic import in_processes, make_shard, synthesise
from components.data.example_proto import Example
from components.data.legacy_layout import DataInfo, to_canonical
from components.data.pictures import PictureRules
from components.data.sources.seen import of_encoded
from components.data.sources.sheet import samples
from components.data.splits import SPLIT_RULE, split_of
from components.data.tfrecords import read_records
from components.data.window import Window
from pipeline.cli.data import data_app
from tests.support.drawing import synth_plan
from tests.support.model_folder import contents

pytestmark = pytest.mark.slow

WEIGHTS = {"train": 10, "eval": 1, "test": 1}


def plan(**changes):
    options: dict[str, Any] = {"spec": CaptchaSpec(), "count": 60, "seed": 1, "shard_size": 25, "splits": WEIGHTS} | changes
    return synth_plan(**options)


def examples(span):
    for split in WEIGHTS:
        for path in span.files(split):
            for record in read_records(path):
                yield split, Example.FromString(record.data)


@pytest.mark.parametrize("label", ["0", "8461", "XKCD9"])
def test_pictures_of_the_default_size_match_the_library(label):
    painter = CaptchaPainter(plan(spec=CaptchaSpec(width=160, height=60)))
    library = ImageCaptcha()
    random.seed(label)
    ours = painter.draw(label)[0]
    random.seed(label)
    assert ours.tobytes() == library.generate_image(label).tobytes()


def test_fonts_and_noise_are_scaled_for_smaller_pictures():
    small = plan(spec=CaptchaSpec(width=80, height=30))
    assert small.effective_font_sizes == (21, 25, 28)
    assert small.effective_noise_dots == 8
    assert plan(font_sizes=(9,), noise_dots=0).effective_noise_dots == 0


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    one = synthesise(plan(), tmp_path / "one", partial(in_processes, workers=1))
    two = synthesise(plan(), tmp_path / "two", partial(in_processes, workers=2))
    assert contents(one.path) == contents(two.path)
    assert len(one.manifest.files) == 9
    assert len([*one.records("train")]) == one.manifest.counts["train"] > 0


def test_beam_makes_the_same_span(tmp_path):
    here = synthesise(plan(), tmp_path / "here")
    there = synthesise(plan(), tmp_path / "the[r]e*", partial(synthetic_beam.make_shards, beam_args=["--runner=FnApiRunner"]))
    assert contents(here.path) == contents(there.path)


def test_a_shard_does_not_depend_on_other_threads(tmp_path):
    """Other shards, and other users of the global `random` such as Beam when it samples sizes, do not change a shard."""
    alone = [synthetic_beam._draw(shard, plan(), str(tmp_path)) for shard in range(3)]
    done = threading.Event()
    with ThreadPoolExecutor(4) as threads:
        threads.submit(lambda: [random.random() for _ in iter(done.is_set, True)])
        try:
            together = list(threads.map(lambda shard: synthetic_beam._draw(shard, plan(), str(tmp_path)), range(3)))
        finally:
            done.set()
    assert together == alone


def test_a_shard_may_be_drawn_twice(tmp_path):
    """An engine may start a task again while the first attempt still runs."""
    once, again = (synthetic_beam._draw(0, plan(), str(tmp_path)) for _ in range(2))
    assert once == again
    assert {path.name for path in tmp_path.iterdir()} == {"train", "eval", "test"}


def test_a_picture_does_not_depend_on_the_shard_size(tmp_path):
    few = synthesise(plan(count=12, shard_size=12), tmp_path / "few")
    many = synthesise(plan(count=12, shard_size=5), tmp_path / "many")
    assert Counter(str(e) for e in examples(few)) == Counter(str(e) for e in examples(many))


def test_drawing_a_shard_keeps_the_random_state_of_the_caller(tmp_path):
    random.seed(5)
    expected = random.random()
    random.seed(5)
    counted = []
    files = make_shard(plan(), 2, tmp_path, lambda: counted.append(1))
    assert random.random() == expected
    assert len(counted) == sum(file.records for file in files) == 10


def test_another_seed_gives_other_pictures(tmp_path):
    pictures = [{e.features.feature["image"].bytes_list.value[0] for _, e in examples(synthesise(plan(seed=s), tmp_path))} for s in (1, 2)]
    assert not pictures[0] & pictures[1]


def test_every_record_is_valid_and_in_the_split_of_its_pixels(tmp_path):
    spec = CaptchaSpec(charset="alnum", length={"min": 3, "max": 6}, width=128, height=64, channels=1)
    span = synthesise(plan(spec=spec), tmp_path)
    lengths: Counter[int] = Counter()
    for split, example in examples(span):
        values = {name: feature.bytes_list.value[0] for name, feature in example.features.feature.items()}
        label = values["label"].decode()
        assert spec.canonical(label) == label
        lengths[len(label)] += 1
        assert values["source"] == b"synthetic"
        assert json.loads(values["params"])["font_sizes"] == [45, 53, 60]
        with Image.open(io.BytesIO(values["image"])) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (128, 64))
        assert split == split_of(of_encoded(values["image"], label, "", PictureRules(10_000, (0, 0, 0), "refuse")).key, WEIGHTS)
    assert set(lengths) == {3, 4, 5, 6}
    assert lengths.total() == sum(span.manifest.counts.values()) == 60
    assert span.manifest.spec == spec
    assert span.manifest.seed == 1
    assert (span.manifest.split_rule, span.manifest.params["splits"]) == (SPLIT_RULE, WEIGHTS)


def test_both_layouts_have_the_same_pictures_in_the_same_splits(tmp_path):
    canonical = synthesise(plan(count=30), tmp_path)
    book = synthesise(plan(count=30, layout="book"), tmp_path)
    info = DataInfo.load(book.path / "data_info.csv")
    for (split, one), (other_split, raw) in zip(examples(canonical), examples(book), strict=True):
        other = to_canonical(raw, info, plan().spec)
        assert split == other_split
        for name in ("image", "label"):
            assert one.features.feature[name] == other.features.feature[name]


def test_noise_can_be_chosen():
    noisy, plain = CaptchaPainter(plan()), CaptchaPainter(plan(noise_dots=0, noise_curve=False))
    difference = np.asarray(noisy.paint(3).image, int) - np.asarray(plain.paint(3).image, int)
    assert np.abs(difference).max() > 50
    assert (plain.paint(3).params["dots"], plain.paint(3).params["curve"]) == (0, False)


@pytest.fixture
def dejavu():
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def test_a_configured_font_draws_its_own_alphabet(tmp_path, dejavu):
    spec = CaptchaSpec(charset="أبجد", length=3)
    span = synthesise(plan(spec=spec, count=4, fonts=(dejavu,), font_sizes=(20,)), tmp_path)
    rules = PictureRules(10_000, (255, 255, 255), "resize")
    assert {len(sample.label) for split in WEIGHTS for sample in samples(span, split, Window((span,), None), rules)} == {3}


def test_fonts_without_the_glyphs_are_refused_before_anything_is_written(tmp_path, dejavu):
    spec = CaptchaSpec(charset="01あい")
    with pytest.raises(CaptchaPipelineError, match=r"DroidSansMono.ttf has no glyphs for 2 characters .*: あい\. .*synth.fonts"):
        synthesise(plan(spec=spec), tmp_path / "data")
    with pytest.raises(CaptchaPipelineError, match="DejaVuSans"):
        find_fonts((dejavu, *DEFAULT_FONTS), spec.characters)
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_no_font_is_named(tmp_path):
    (tmp_path / "a.ttf").write_text("not a font at all")
    with pytest.raises(CaptchaPipelineError, match=r"a\.ttf is not a TrueType"):
        find_fonts([str(tmp_path / "a.ttf")], "01")
    with pytest.raises(CaptchaPipelineError, match=r"Cannot read the font .*b\.ttf: No such file"):
        find_fonts([str(tmp_path / "b.ttf")], "01")


def test_drawing_does_not_load_tensorflow():
    modules = "components.data.drawing.synthetic, components.data.sources.imported, components.data.sources.sheet, pipeline.cli.data"
    script = f"import sys, {modules}; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_command_makes_spans_of_new_pictures(tmp_path):
    arguments = ["synth", "--count", "12", "--workers", "1", "--set", f"data.root={tmp_path}"]
    for extra in ([], [], ["--seed", "1"]):
        result = CliRunner().invoke(data_app, [*arguments, *extra], catch_exceptions=False)
        assert result.exit_code == 0
        assert "12 pictures" in result.output
    first, second, third = (contents(tmp_path / f"span-00000{number}") for number in (1, 2, 3))
    assert first != second
    assert first == third
