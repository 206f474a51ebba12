"""The devices that the Trainer chooses, on simulated lists of devices."""

import json
import os
from types import SimpleNamespace
from typing import Any

import keras
import pytest
import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.training import devices
from components.training.devices import choose_strategy, is_chief, synchronise_batch_norm, training_dtype

Kinds = dict[str, Any]


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Kinds:
    """Returns the strategies that are made, by name, with their devices."""
    made: Kinds = {}
    for name in ("MirroredStrategy", "OneDeviceStrategy"):
        monkeypatch.setattr(tf.distribute, name, lambda devices, name=name: made.setdefault(name, devices))
    return made


def _gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    devices = [SimpleNamespace(name=f"/device:GPU:{number}") for number in range(count)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices if kind == "GPU" else [])


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [
        ("auto", 0, {}),
        ("auto", 1, {}),  # the default strategy: Keras compiles with XLA under it, and not under a strategy of one device
        ("auto", 2, {"MirroredStrategy": ["/device:GPU:0", "/device:GPU:1"]}),
        ("cpu", 0, {}),
        ("cpu", 1, {"OneDeviceStrategy": "/cpu:0"}),
        ("one_gpu", 2, {}),
        ("mirrored", 2, {"MirroredStrategy": ["/device:GPU:0", "/device:GPU:1"]}),
        ("mirrored", 1, {"MirroredStrategy": ["/device:GPU:0"]}),
    ],
)
def test_strategy_by_configuration_and_gpus(name: str, gpus: int, expected: Kinds, kinds: Kinds, monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, gpus)
    strategy = choose_strategy(name)
    assert kinds == expected
    if not expected:
        assert strategy is tf.distribute.get_strategy()
        assert is_chief(strategy)


@pytest.mark.parametrize("name", ["one_gpu", "mirrored"])
def test_a_missing_gpu_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, 0)
    with pytest.raises(CaptchaPipelineError, match=rf"trainer\.strategy is {name}, but TensorFlow sees no GPU"):
        choose_strategy(name)


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", json.dumps({"cluster": {}}), json.dumps({"task": {"type": "chief", "index": 0}})]
)
def test_workers_need_a_cluster(content: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if content is not None:
        monkeypatch.setenv("TF_CONFIG", content)
    with pytest.raises(CaptchaPipelineError, match="TF_CONFIG names no cluster"):
        choose_strategy("multi_worker")


def test_workers_need_their_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tf.constant(1)  # TensorFlow is in use, as after the other steps of a run on one machine
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"chief": ["localhost:1"]}, "task": {"type": "chief", "index": 0}}))
    with pytest.raises(CaptchaPipelineError, match=r"python -m components\.training\.worker"):
        choose_strategy("multi_worker")


def test_gpu_memory_is_taken_as_needed_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    choose_strategy("auto")
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    choose_strategy("auto")
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"


def test_batch_norm_is_synchronised_only_among_replicas() -> None:
    def synchronised(strategy: tf.distribute.Strategy) -> bool:
        with strategy.scope():
            model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
            synchronise_batch_norm(model)
        return bool(model.layers[0].synchronized)

    assert not synchronised(tf.distribute.get_strategy())
    assert not synchronised(tf.distribute.MirroredStrategy(["/cpu:0"]))
    several = SimpleNamespace(num_replicas_in_sync=2)
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "get_strategy", lambda: several)
        synchronise_batch_norm(model)
    assert model.layers[0].synchronized


@pytest.mark.parametrize(
    ("flags", "expected"), [({"avx2"}, "float32"), ({"avx2", "avx512_bf16"}, "mixed_bfloat16"), ({"amx_bf16"}, "mixed_bfloat16")]
)
def test_auto_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: str) -> None:
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert training_dtype("auto") == expected
    assert training_dtype("float32") == "float32"
