"""A SavedModel with the signatures of the served model. The bytes of a picture are its logits."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.base import features
from components.data.captcha_spec import CaptchaSpec


class Reader(tf.Module):
    """Adds `bias` [max_length, num_classes] to the float32 logits in the bytes of the picture."""

    def __init__(self, spec: CaptchaSpec, bias: np.ndarray):
        super().__init__()
        self._spec = spec
        self._bias = tf.constant(bias, tf.float32)
        self._ids = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(list(spec.characters), tf.range(len(spec.characters), dtype=tf.int64)), -1
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_examples(self, examples):
        picture = tf.io.parse_example(examples, {features.IMAGE: tf.io.FixedLenFeature([], tf.string)})[features.IMAGE]
        logits = tf.reshape(tf.io.decode_raw(picture, tf.float32), [-1, self._spec.max_length, self._spec.num_classes])
        probabilities = tf.nn.softmax(logits + self._bias)
        return {
            features.PROBABILITIES: probabilities,
            features.CONFIDENCE: tf.reduce_prod(tf.reduce_max(probabilities, -1), -1),
            features.TEXT: tf.fill([tf.shape(probabilities)[0]], "?"),
            features.VALID: tf.ones([tf.shape(probabilities)[0]], tf.bool),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def transform_features(self, examples):
        parsed = tf.io.parse_example(examples, {key: tf.io.FixedLenFeature([], tf.string) for key in (features.IMAGE, features.LABEL)})
        characters = tf.strings.unicode_split(parsed[features.LABEL], "UTF-8")
        ids = tf.ragged.map_flat_values(self._ids.lookup, characters)
        blank = self._spec.blank_id or 0
        return {
            features.LABEL_IDS: ids.to_tensor(default_value=tf.constant(blank, tf.int64), shape=[None, self._spec.max_length]),
            features.PIXELS: parsed[features.IMAGE],
        }


def save_reader(path: Path, spec: CaptchaSpec, bias: float = 0.0, fingerprint: str = "this") -> Path:
    """Saves a reader with a bias of `bias` logits towards the first class; returns its folder."""
    biases = np.zeros((spec.max_length, spec.num_classes), np.float32)
    biases[:, 0] = bias
    reader = Reader(spec, biases)
    tf.saved_model.save(
        reader, str(path), signatures={"serving_examples": reader.serving_examples, "transform_features": reader.transform_features}
    )
    extra = path / "assets.extra"
    extra.mkdir()
    (extra / features.SPEC_FILE).write_text(json.dumps({"spec": spec.model_dump(mode="json"), "fingerprint": fingerprint}))
    return path


def write_readings(path: Path, spec: CaptchaSpec, count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Writes examples to a TFRecord file; returns their labels, and their logits float32 [count, max_length, num_classes]."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(spec.min_length, spec.max_length + 1, count)
    labels = ["".join(rng.choice(list(spec.characters), length)) for length in lengths]
    logits = rng.normal(size=(count, spec.max_length, spec.num_classes)).astype(np.float32)
    for i, label in enumerate(labels):
        logits[i, np.arange(spec.max_length), spec.encode(label)] += 4
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for i, label in enumerate(labels):
            writer.write(_example(logits[i].tobytes(), label, i).SerializeToString())
    return labels, logits


def source_of(i: int) -> str:
    return "synthetic" if i % 3 else "street"


def difficulty_of(i: int) -> str:
    return ("low contrast", "medium contrast", "high contrast")[i % 5 % 3]


def span_of(i: int) -> str:
    return "span-000001" if i % 4 else "span-000002"


def _example(picture: bytes, label: str, i: int) -> tf.train.Example:
    values = {
        features.IMAGE: [picture],
        features.LABEL: [label.encode()],
        features.CHARACTERS: [character.encode() for character in label],
        features.SOURCE: [source_of(i).encode()],
        features.DIFFICULTY: [difficulty_of(i).encode()],
        features.PARAMS: [b"{}"],
        features.SPAN: [span_of(i).encode()],
    }
    feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for key, value in values.items()}
    feature[features.WIDTH] = tf.train.Feature(int64_list=tf.train.Int64List(value=[100]))
    feature[features.BRIGHTNESS] = tf.train.Feature(float_list=tf.train.FloatList(value=[127.5]))
    return tf.train.Example(features=tf.train.Features(feature=feature))
