import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.serving.serving_dir import Withdrawn, check, latest_pushed, original, roll_back, unservable_warning, versions, withdrawn
from components.serving.serving_dir import push as push_keeping
from tests.support.command import call
from tests.support.model_folder import SPEC, contents, make_former, make_model
from tests.support.paths import ROOT

push = partial(push_keeping, keep=20)


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "serving"


def test_the_first_push_makes_the_folder(tmp_path, serving):
    model = make_model(tmp_path / "model")
    before = int(time.time())
    pushed = push(model, serving)
    assert before <= pushed.version <= time.time()
    assert pushed.path == serving / str(pushed.version)
    assert pushed.fingerprint == "a"
    assert pushed.spec == SPEC
    assert contents(pushed.path) == contents(model)
    assert versions(serving) == [pushed]


def test_version_numbers_only_grow(tmp_path, serving):
    future = int(time.time()) + 10_000
    (serving / str(future)).mkdir(parents=True)  # even above a folder without a model
    pushed = [push(make_model(tmp_path / name, name), serving).version for name in "abc"]
    assert pushed == [future + 1, future + 2, future + 3]
    assert [version.version for version in versions(serving)] == pushed[::-1]


def test_the_same_model_is_not_pushed_twice(tmp_path, serving):
    a, b = make_model(tmp_path / "a"), make_model(tmp_path / "b")  # the same fingerprint, but other weights
    first = push(a, serving)
    assert push(a, serving) == first
    second = push(b, serving)
    assert second.version > first.version
    assert push(a, serving).version > second.version  # it is back in production


def test_a_damaged_newest_version_is_pushed_again(tmp_path, serving):
    model = make_model(tmp_path / "model")
    first = push(model, serving)
    (first.path / "variables" / "part-0").write_bytes(b"")
    second = push(model, serving)
    assert second.version > first.version
    assert contents(second.path) == contents(model)


def test_a_killed_push_leaves_no_version_and_is_cleaned_up(tmp_path, serving):
    model = make_model(tmp_path / "model")
    stalled = """
import shutil, sys, time
from components.serving import serving_dir
copy = shutil.copy2
def slow(source, target, **options):
    copy(source, target, **options)
    print("copied", flush=True)
    time.sleep(60)
shutil.copytree = (lambda copytree: lambda source, target: copytree(source, target, copy_function=slow))(shutil.copytree)
serving_dir.push(*sys.argv[1:], keep=20)
"""
    with subprocess.Popen([sys.executable, "-c", stalled, str(model), str(serving)], stdout=subprocess.PIPE, cwd=ROOT) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        os.kill(killed.pid, signal.SIGKILL)
    left = [path.name for path in serving.iterdir()]
    assert len(left) == 2, "the unfinished copy, and the lock"
    assert not any(name.isdigit() for name in left)
    assert versions(serving) == []
    pushed = push(model, serving)
    assert [path for path in serving.iterdir() if path.is_dir()] == [pushed.path]
    assert contents(pushed.path) == contents(model)


def test_concurrent_readers_see_only_complete_versions(tmp_path, serving):
    models = [make_model(tmp_path / str(i), str(i), files=20) for i in range(12)]
    whole = [contents(model) for model in models]
    done, torn = threading.Event(), []

    def watch() -> None:
        while not done.is_set():
            for path in list(serving.iterdir()) if serving.exists() else []:
                if path.name.isdigit() and contents(path) not in whole:
                    torn.append(path)

    reader = threading.Thread(target=watch)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        pushed = list(pool.map(lambda model: push(model, serving), models))
    done.set()
    reader.join()
    assert not torn
    assert len({version.version for version in pushed}) == len(models)
    assert [contents(version.path) for version in pushed] == whole


@pytest.mark.parametrize("make", [lambda path: path.write_text("a file"), lambda path: path.symlink_to("/proc/nowhere")])
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, make):
    model = make_model(tmp_path / "model")
    make(tmp_path / "serving")
    with pytest.raises(CaptchaPipelineError, match=r"Cannot push to .*serving"):
        push(model, tmp_path / "serving")


def test_remote_folders_are_refused(tmp_path):
    with pytest.raises(CaptchaPipelineError, match="folder on this machine"):
        push(make_model(tmp_path / "model"), "s3://bucket/serving")


def test_the_baseline_is_the_newest_version_with_the_same_spec_from_another_run(tmp_path, serving):
    assert latest_pushed(serving, "a", SPEC) is None
    other_kind = CaptchaSpec(length=6)
    a = push(make_model(tmp_path / "a", "a"), serving)
    assert latest_pushed(serving, "a", SPEC) is None, "a model is not its own baseline"
    assert latest_pushed(serving, "b", SPEC) == a
    b = push(make_model(tmp_path / "b", "b"), serving)
    push(make_model(tmp_path / "c", "c", other_kind), serving)
    assert latest_pushed(serving, "x", SPEC) == b
    assert latest_pushed(serving, "b", SPEC) == a, "as when b was made"
    assert latest_pushed(serving, "a", SPEC) == b


def test_versions_of_other_programs_are_ignored(tmp_path, serving):
    ours = push(make_model(tmp_path / "ours", "ours"), serving)
    for number, about in enumerate([b"not JSON", b"[]", b'{"spec": {"charset": "x"}}', b"\xff"], start=ours.version + 1):
        extra = serving / str(number) / "assets.extra"
        extra.mkdir(parents=True)
        (serving / str(number) / "saved_model.pb").write_bytes(b"another's")
        (extra / "captcha.json").write_bytes(about)
    (serving / str(ours.version + 10)).mkdir()  # no model in it
    (serving / "²").mkdir()  # a digit to Python, not to TensorFlow Serving
    assert latest_pushed(serving, "x", SPEC) == ours


def test_the_module_imports_no_tensorflow():
    heavy = "any(name.split('.')[0] in ('tensorflow', 'tfx', 'keras') for name in sys.modules)"
    code = f"import sys, components.serving.serving_dir; sys.exit({heavy})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_pruning_keeps_the_newest_versions_and_foreign_folders(tmp_path, serving):
    (serving / "17" / "saved_model.pb").mkdir(parents=True)
    foreign = make_model(serving / "18")
    (foreign / "assets.extra" / "captcha.json").unlink()
    pushed = [push_keeping(make_model(tmp_path / name, name), serving, keep=3) for name in "abcde"]
    assert [version.path for version in pushed if version.path.exists()] == [version.path for version in pushed[2:]]
    assert contents(foreign)
    assert (serving / "17").exists()


def test_a_rollback_restores_a_version_and_withdraws_later_versions(tmp_path, serving):
    models = {name: make_model(tmp_path / name, name) for name in "abc"}
    a, b, _ = [push(model, serving) for model in models.values()]
    back = roll_back(serving, a.version)
    assert versions(serving)[0] == back
    assert back.copy_of == a.version
    assert {name: content for name, content in contents(back.path).items() if "rollback" not in name} == contents(a.path)
    assert original(serving, str(back.version)) == str(a.version)
    assert original(serving, str(b.version)) == str(b.version)
    assert latest_pushed(serving, "d", SPEC) == back, "it is what the next model is compared with"

    for name in "bc":
        with pytest.raises(Withdrawn):
            push(models[name], serving)
    assert versions(serving)[0] == back
    new = push(make_model(tmp_path / "d", "d"), serving)
    assert versions(serving)[0] == new

    again = roll_back(serving, back.version)
    assert again.copy_of == a.version, "a copy of a copy names the version that a run pushed"
    forward = roll_back(serving, b.version)
    assert forward.copy_of == b.version
    assert withdrawn(serving) == {"c", "d"}, "a, whose copy was above it, came before it"
    assert push(models["b"], serving).version > forward.version, "it is no longer withdrawn"
    with pytest.raises(Withdrawn):
        push(models["c"], serving)


def test_a_withdrawn_recipe_stays_withdrawn_with_another_base_model(tmp_path, serving):
    """A fit by the same recipe from another base model would undo the rollback without any new data."""
    a, _ = [push(make_model(tmp_path / name, name), serving) for name in "ab"]
    push(make_model(tmp_path / "from-b", "from b", recipe="c"), serving)
    back = roll_back(serving, a.version)
    with pytest.raises(Withdrawn):
        push(make_model(tmp_path / "from-a", "from a", recipe="c"), serving)
    assert latest_pushed(serving, "c", SPEC) == back
    push(make_model(tmp_path / "other", "of other data, from b", recipe="d"), serving)
    assert versions(serving)[0].recipe == "d"


def test_the_recipe_of_an_earlier_release_is_its_fingerprint(tmp_path, serving):
    old = make_model(tmp_path / "old", "old")
    about = old / "assets.extra" / "captcha.json"
    about.write_text(json.dumps({name: value for name, value in json.loads(about.read_text()).items() if name != "recipe"}))
    a, _ = push(make_model(tmp_path / "a", "a"), serving), push(old, serving)
    assert versions(serving)[0].recipe == "old"
    roll_back(serving, a.version)
    with pytest.raises(Withdrawn):
        push(old, serving)


def test_the_rollback_command(tmp_path, serving):
    (tmp_path / "a.yaml").write_text(f"name: a\npusher: {{serving_dir: {serving}}}\n")
    a, _ = [push(make_model(tmp_path / name, name), serving) for name in "ab"]
    printed = call("rollback", str(a.version), "--config", str(tmp_path / "a.yaml"))
    assert f"Version {a.version} is in production again, as {versions(serving)[0].version} in {serving}" in printed
    assert versions(serving)[0].copy_of == a.version


def test_a_rollback_to_a_missing_version_changes_nothing(tmp_path, serving):
    with pytest.raises(CaptchaPipelineError, match=r"Version 7 does not exist in .*serving\. Existing versions: none"):
        roll_back(serving, 7)
    a, b = [push(make_model(tmp_path / name, name), serving) for name in "ab"]
    with pytest.raises(CaptchaPipelineError, match=rf"Version 7 does not exist in .*\. Existing versions: {b.version}, {a.version}"):
        roll_back(serving, 7)
    with pytest.raises(CaptchaPipelineError, match="already in production"):
        roll_back(serving, b.version)
    assert versions(serving) == [b, a]


def test_a_version_that_servers_cannot_use_is_named_and_not_restored(tmp_path, serving):
    assert unservable_warning(serving) == ""
    foreign = make_model(serving / "18")
    (foreign / "assets.extra" / "captcha.json").unlink()
    assert unservable_warning(serving) == "", "it is not known of what others put there"
    former = push(make_former(tmp_path / "former", "f"), serving)
    warning = unservable_warning(serving)
    assert f"version {former.version}, which is in production: TensorFlow Serving and other servers cannot use it" in warning
    assert "`captcha-pipeline retrain --force`" in warning
    a, b = [push(make_model(tmp_path / name, name), serving) for name in "ab"]
    assert unservable_warning(serving) == ""
    with pytest.raises(CaptchaPipelineError, match=rf"cannot use it(.|\n)*one that they can use \({b.version}, {a.version}, 18\)"):
        roll_back(serving, former.version)
    assert versions(serving)[:2] == [b, a]
    assert roll_back(serving, a.version).servable


@pytest.mark.slow
def test_a_killed_rollback_leaves_only_complete_versions(tmp_path, serving):
    a, b = [push(make_model(tmp_path / name, name, files=200), serving) for name in "ab"]
    program = "from components.serving.serving_dir import roll_back; print('begun', flush=True); roll_back(sys.argv[1], int(sys.argv[2]))"
    code = f"import sys; {program}"
    for delay in (0.0, 0.005, 0.01, 0.02):
        process = subprocess.Popen([sys.executable, "-c", code, str(serving), str(a.version)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for version in versions(serving):
            files = {name: content for name, content in contents(version.path).items() if "rollback" not in name}
            assert files == contents((a if version.fingerprint == "a" else b).path)
    assert versions(serving)[0].version >= b.version


# Loads the newest version repeatedly and prints it, until its standard input ends.
READ = """
import select, sys
import tensorflow as tf
from components.serving.serving_dir import versions
while not select.select([sys.stdin], [], [], 0)[0]:
    newest = versions(sys.argv[1])[0]
    loaded = tf.saved_model.load(str(newest.path))
    print(newest.version, newest.fingerprint, int(loaded.total()), flush=True)
"""


@pytest.mark.long
def test_a_reader_can_load_during_pushes_and_rollbacks(tmp_path, serving):
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self):
            self.weights = tf.Variable(tf.ones([100_000]))

        @tf.function(input_signature=[])
        def total(self):
            return tf.reduce_sum(self.weights)

    def model(name: str) -> Path:
        path = shutil.copytree(saved, tmp_path / name)
        (path / "assets.extra").mkdir()
        (path / "assets.extra" / "captcha.json").write_text(json.dumps({"fingerprint": name, "servable": True}))
        return path

    saved = tmp_path / "saved"
    tf.saved_model.save(Model(), str(saved))
    expected = [push(model("first"), serving)]
    command = [sys.executable, "-c", READ, str(serving)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as reader:
        assert reader.stdout is not None
        seen = [reader.stdout.readline().split()]
        for i in range(50):
            third = i % 3 == 2
            newest = roll_back(serving, expected[-2].version) if third else push_keeping(model(str(i)), serving, keep=3)
            expected.append(newest)
            while seen[-1][:1] != [str(newest.version)]:
                seen.append(reader.stdout.readline().split())
                assert seen[-1], "it has failed"
        reader.communicate()
    assert reader.returncode == 0
    assert {total for _, _, total in seen} == {"100000"}
    numbers = [int(version) for version, _, _ in seen]
    assert numbers == sorted(numbers)
    fingerprints = {version: fingerprint for version, fingerprint, _ in seen}
    assert fingerprints == {str(pushed.version): pushed.fingerprint for pushed in expected}


def test_pruning_a_linked_version_removes_only_the_link(tmp_path, serving):
    elsewhere = make_model(tmp_path / "elsewhere", fingerprint="old")
    serving.mkdir(parents=True)
    (serving / "1").symlink_to(elsewhere)
    for name in ("b", "c"):
        push_keeping(make_model(tmp_path / name, fingerprint=name), serving, keep=2)
    assert [pushed.fingerprint for pushed in versions(serving)] == ["c", "b"]
    assert (elsewhere / "saved_model.pb").exists()


@pytest.mark.parametrize("file", [".withdrawn.json", "{newest}/assets.extra/captcha.json", "{newest}/saved_model.pb"])
def test_a_file_emptied_by_a_power_failure_is_named_with_the_remedy(tmp_path, serving, file):
    models = [make_model(tmp_path / name, fingerprint=name) for name in ("a", "b")]
    oldest, newest = (push(model, serving).version for model in models)
    damaged = serving / file.format(newest=newest)
    damaged.write_bytes(b"")
    for use in (lambda: check(serving), lambda: push(models[0], serving), lambda: roll_back(serving, oldest)):
        with pytest.raises(CaptchaPipelineError, match=f"{damaged} is damaged.* Remove"):
            use()
    damaged.unlink()
    shutil.rmtree(serving / str(newest))
    check(serving)
    assert versions(serving)


@pytest.mark.parametrize("obstacle", ["file", "s3"])
def test_an_unwritable_serving_folder_stops_a_run_before_it_reads_data(tmp_path, obstacle):
    (tmp_path / "file").write_text("")
    folder = {"file": str(tmp_path / "file"), "s3": "s3://bucket/models"}[obstacle]
    keys = {"root": tmp_path, "pusher.serving_dir": folder, "data.root": tmp_path / "no-data"}
    with pytest.raises(CaptchaPipelineError, match=folder):
        call("run", "--config", "configs/tiny.yaml", *(f"--set={key}={value}" for key, value in keys.items()))
