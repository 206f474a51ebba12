import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys

import pytest

from components.base.errors import CaptchaPipelineError
from components.base.features import DRAWN, PSEUDO, SPLITS
from components.data.span_writer import new_span
from components.data.spans import list_spans, next_number
from components.data.splits import SPLIT_RULE
from components.data.tfrecords import Record, read_records
from components.data.window import Window, window, window_as_of
from tests.support.model_folder import contents
from tests.support.span import begin_many, make_span, make_three


def what_lies_in(root):
    """Returns the names of all files except the lock file."""
    return sorted(path.name for path in root.iterdir() if path.name != ".lock")


def test_a_span_gets_the_next_number_and_describes_its_files(tmp_path):
    root = tmp_path / "data"
    assert (list_spans(root), next_number(root)) == ([], 1)
    first, second = make_span(root), make_span(root, [b"three"])
    assert [first.path.name, second.path.name] == ["span-000001", "span-000002"]
    assert list_spans(root) == [first, second]
    assert first.manifest.counts == {"train": 2, "eval": 0, "test": 0}
    assert [path.name for path in first.files("train")] == ["shard-00000-of-00001.tfrecord.gz"]
    assert list(read_records(first.files("train")[0])) == [Record(0, b"one"), Record(1, b"two")]
    assert list(read_records(first.files("test")[0])) == []
    assert what_lies_in(root) == ["span-000001", "span-000002"]


def test_a_manifest_of_an_earlier_release_has_the_first_split_rule(tmp_path):
    span = make_span(tmp_path)
    path = span.path / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest.pop("split_rule") == SPLIT_RULE > 1
    path.write_text(json.dumps(manifest))
    assert list_spans(tmp_path)[0].manifest.split_rule == 1


def test_only_a_manifest_of_corrections_mentions_them(tmp_path):
    """Otherwise the checksums of spans of earlier releases, and with them the recipes of their models, would change."""
    manifest = json.loads((make_span(tmp_path).path / "manifest.json").read_text())
    assert list(manifest) == ["layout", "spec", "seed", "source", "split_rule", "params", "counts", "files"]
    told = f"1 {json.dumps(manifest, separators=(',', ':'))}\n"
    assert window(tmp_path, None).digest == hashlib.sha256(told.encode()).hexdigest()
    span = make_span(tmp_path, supersedes=["0" * 31 + "1"])
    assert json.loads((span.path / "manifest.json").read_text())["supersedes"] == ["0" * 31 + "1"]
    assert list_spans(tmp_path)[-1] == span


def test_a_window_says_what_later_spans_supersede(tmp_path):
    one, two = (f"{number:032x}" for number in (1, 2))
    for supersedes in ((), (one,), (), (one, two)):
        make_span(tmp_path, supersedes=supersedes)
    first, second, third, fourth = list_spans(tmp_path)
    whole = window(tmp_path, None)
    assert whole.superseded(first) == whole.superseded(third) == {bytes.fromhex(one), bytes.fromhex(two)}
    assert whole.superseded(second) == {bytes.fromhex(one), bytes.fromhex(two)}
    assert whole.superseded(fourth) == frozenset()
    assert whole.only(second).superseded(second) == whole.superseded(second)
    assert whole.newest == third
    assert window(tmp_path, None, exclude=[4]).superseded(first) == {bytes.fromhex(one)}
    golden = window(tmp_path, 1, exclude=[4], golden=1)
    assert (golden.spans, golden.corrections) == ((third,), (second,))
    assert golden.superseded(first) == {bytes.fromhex(one)}
    assert golden.digest != window(tmp_path, 1, exclude=[2, 4], golden=1).digest, "other records judge the model"
    assert window_as_of(golden.as_of, tmp_path, 1, golden=1) == golden


def test_drawn_pictures_judge_only_where_there_are_no_others(tmp_path):
    drawn = [make_span(tmp_path, source=DRAWN) for _ in range(2)]
    alone = window(tmp_path, 1)
    assert alone.spans == (drawn[1],)
    assert alone.newest == drawn[1]
    assert [alone.use_of(drawn[1], split) for split in SPLITS] == list(SPLITS)
    labelled = [make_span(tmp_path), make_span(tmp_path)]
    drawn.append(make_span(tmp_path, source=DRAWN))
    pseudo = make_span(tmp_path, source=PSEUDO)
    newest = window(tmp_path, 1)
    assert newest.spans == (labelled[1], drawn[2], pseudo), "drawn spans do not count"
    assert newest.newest == labelled[1]
    whole = window(tmp_path, None, golden=1)
    assert whole.spans == (*drawn[:2], *labelled, drawn[2], pseudo)
    assert [whole.age(span) for span in whole.spans] == [2, 2, 1, 0, 0, 0]
    assert [whole.only_trains(span) for span in whole.spans] == [True, True, False, False, True, False]
    assert [whole.use_of(drawn[2], split) for split in SPLITS] == ["train"] * 3
    assert [whole.use_of(labelled[0], split) for split in SPLITS] == list(SPLITS)
    assert [whole.use_of(drawn[0], split) for split in SPLITS] == ["train", "train", "test"], "it is the golden span"


def test_tensorflow_reads_the_shards(tmp_path):
    import tensorflow as tf

    files = [str(path) for path in make_span(tmp_path).files("train")]
    assert [record.numpy() for record in tf.data.TFRecordDataset(files, "GZIP")] == [b"one", b"two"]


def test_the_same_records_give_the_same_bytes(tmp_path):
    assert contents(make_span(tmp_path / "a").path) == contents(make_span(tmp_path / "b").path)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_span_leaves_no_files(tmp_path, error):
    def fail():
        with new_span(tmp_path) as draft:
            (draft / "file").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert what_lies_in(tmp_path) == []


def test_the_draft_of_a_killed_process_is_removed(tmp_path):
    script = (
        "import os, sys, signal; from components.data.span_writer import new_span\n"
        "with new_span(sys.argv[1]) as d: (d / 'x').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert len(what_lies_in(tmp_path)) == 1
    assert list_spans(tmp_path) == []
    assert make_span(tmp_path).number == 1
    assert what_lies_in(tmp_path) == ["span-000001"]


def test_a_draft_without_a_manifest_does_not_become_a_span(tmp_path):
    with pytest.raises(CaptchaPipelineError, match="manifest"), new_span(tmp_path):
        pass
    assert what_lies_in(tmp_path) == []


def in_three_processes(work, root):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(root,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_concurrent_processes_get_different_span_numbers(tmp_path):
    in_three_processes(make_three, tmp_path)
    assert [span.number for span in list_spans(tmp_path)] == list(range(1, 10))
    assert len(what_lies_in(tmp_path)) == 9


@pytest.mark.slow
def test_a_draft_is_not_removed_by_another_process(tmp_path):
    in_three_processes(begin_many, tmp_path)
    assert what_lies_in(tmp_path) == []


def numbers(chosen):
    return [span.number for span in chosen.spans]


def test_the_window_has_the_newest_spans(tmp_path):
    with pytest.raises(CaptchaPipelineError, match=r"There are no spans in .*data synth"):
        window(tmp_path, None)
    for record in (b"1", b"2", b"3"):
        make_span(tmp_path, [record])
    assert numbers(window(tmp_path, 2)) == [2, 3]
    assert numbers(window(tmp_path, None)) == [1, 2, 3]
    assert numbers(window(tmp_path, 9)) == [1, 2, 3]


def test_corrections_do_not_use_up_the_window(tmp_path):
    corrected = "0" * 32
    for supersedes in ((), (), (corrected,), (), (corrected,), (corrected,)):
        make_span(tmp_path, supersedes=supersedes)
    assert numbers(window(tmp_path, 1)) == [4, 5, 6]
    assert numbers(window(tmp_path, 2)) == [2, 3, 4, 5, 6]
    assert numbers(window(tmp_path, 3)) == numbers(window(tmp_path, 4)) == [1, 2, 3, 4, 5, 6]
    whole = window(tmp_path, None)
    assert [whole.age(span) for span in whole.spans] == [2, 1, 1, 0, 0, 0]


def test_spans_can_be_excluded_from_the_window(tmp_path):
    for record in (b"1", b"2", b"3"):
        make_span(tmp_path, [record])
    assert numbers(window(tmp_path, 2, exclude=[3, 7])) == [1, 2]
    with pytest.raises(CaptchaPipelineError, match=r"data\.exclude excludes all 3 spans"):
        window(tmp_path, None, exclude=[1, 2, 3])


def test_the_golden_span_does_not_depend_on_the_window(tmp_path):
    for record in (b"1", b"2", b"3"):
        make_span(tmp_path, [record])
    chosen = window(tmp_path, 1, exclude=[1], golden=1)
    assert numbers(chosen) == [3]
    assert chosen.golden is not None
    assert chosen.golden.number == 1
    assert chosen.digest != window(tmp_path, 1, golden=2).digest != window(tmp_path, 1).digest
    with pytest.raises(CaptchaPipelineError, match=r"data\.golden is 4, but .* has the spans 1, 2, 3"):
        window(tmp_path, None, golden=4)


def test_a_run_reads_the_spans_that_existed_at_its_start(tmp_path):
    for record in (b"1", b"2", b"3"):
        make_span(tmp_path, [record])
    seen = {n: window(tmp_path, n) for n in (None, 2)}
    as_of = {n: then.as_of for n, then in seen.items()}
    make_span(tmp_path, [b"4"])
    make_span(tmp_path, [b"5"])
    for n, then in seen.items():
        assert window_as_of(as_of[n], tmp_path, n) == then
    assert window_as_of("", tmp_path, 2) == window(tmp_path, 2)
    shutil.rmtree(tmp_path / "span-000002")
    for n in seen:
        with pytest.raises(CaptchaPipelineError, match=r"removed or changed after the run began. Start the run again"):
            window_as_of(as_of[n], tmp_path, n)


def test_different_windows_have_different_digests(tmp_path):
    make_span(tmp_path / "a", [b"1"])
    make_span(tmp_path / "a", [b"1"])
    make_span(tmp_path / "b", [b"2"])
    spans, other = list_spans(tmp_path / "a"), list_spans(tmp_path / "b")
    digests = {Window(tuple(which), None).digest for which in (spans, spans[:1], spans[1:], other)}
    assert len(digests) == 4
    assert window(tmp_path / "a", None).digest == Window(tuple(spans), None).digest


def test_changed_and_missing_files_are_found_during_reading(tmp_path):
    span = make_span(tmp_path)
    assert list(span.records("train")) == [Record(0, b"one"), Record(1, b"two")]
    train, test = span.files("train")[0], span.files("test")[0]
    train.write_bytes(train.read_bytes()[:-1] + b"x")
    test.unlink()
    with pytest.raises(CaptchaPipelineError, match=r"span-000001/train/shard-00000-of-00001\.tfrecord\.gz has changed"):
        list(span.records("train"))
    with pytest.raises(CaptchaPipelineError, match=r"span-000001/test/shard-00000-of-00001\.tfrecord\.gz is missing"):
        list(span.records("test"))


def test_a_replaced_or_removed_file_changes_the_state_of_the_window(tmp_path):
    span = make_span(tmp_path)
    before = window(tmp_path, None)
    digest, as_of = before.digest, before.as_of
    assert window(tmp_path, None).as_of == as_of
    train = span.files("train")[0]
    seen = {as_of}
    for change in (lambda: os.utime(train, ns=(1, 1)), lambda: train.write_bytes(b"x" * train.stat().st_size), train.unlink):
        change()
        seen.add(window(tmp_path, None).as_of)
        assert window(tmp_path, None).digest == digest, "what a model is made from has not changed"
    assert len(seen) == 4
    with pytest.raises(CaptchaPipelineError, match="removed or changed after the run began"):
        window_as_of(as_of, tmp_path, None)


@pytest.mark.parametrize("damage", ["gone", "text", "path"])
def test_a_wrong_manifest_is_named_with_the_remedy(tmp_path, damage):
    path = make_span(tmp_path).path / "manifest.json"
    if damage == "gone":
        path.unlink()
    elif damage == "text":
        path.write_text("{")
    else:
        manifest = json.loads(path.read_text())
        manifest["files"][0]["path"] = "train/../../../etc/passwd"
        path.write_text(json.dumps(manifest))
    with pytest.raises(CaptchaPipelineError, match=r"manifest.json.*data drop"):
        list_spans(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptchaPipelineError, match="Cannot write in"), new_span(tmp_path / "file"):
        pass


def test_a_removed_span_does_not_change_the_next_number(tmp_path):
    for _ in range(3):
        make_span(tmp_path)
    shutil.rmtree(tmp_path / "span-000001")
    assert make_span(tmp_path).number == 4
