"""The signatures of the SavedModel: they read pictures and tf.Examples, and give TFMA the labels."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf
import tensorflow_transform as tft

from components.base.features import (
    ATTENTION,
    BACKGROUND,
    CONFIDENCE,
    IMAGE,
    LABEL_IDS,
    MAX_PIXELS,
    PIXEL_MEAN,
    PIXEL_STD,
    PROBABILITIES,
    SERVABLE,
    SPEC_FILE,
    TEXT,
    VALID,
    WRONG_SIZE,
)
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import WHITE, is_png, visible_pixels
from components.data.model_inputs import model_inputs
from components.evaluation.metrics import read
from components.serving.exports import EXPORTS


class CaptchaServer(tf.Module):
    """Transform's graph and the model: turns encoded pictures into text.

    Each answer contains, in the order of the pictures: TEXT string [N], PROBABILITIES float32 [N, max_length, num_classes],
    CONFIDENCE float32 [N] and VALID bool [N]; that of `explain` also ATTENTION float32 [N, max_length, columns]. A picture that is not a
    complete PNG or JPEG of at most `max_pixels`, or that is refused for its size, does not affect the others: its VALID is false, its TEXT
    is empty and its numbers are 0.
    """

    def __init__(
        self,
        model: keras.Model,
        tft_output: tft.TFTransformOutput,
        spec: CaptchaSpec,
        max_pixels: int,
        wrong_size: Literal["resize", "refuse"],
    ):
        super().__init__()
        # A function, because functions are not saved. A Keras model would be saved with a second copy of each variable, and servers, which
        # restore by name, would fill the copies that the graph does not read. It reads the TensorFlow variables that Keras wraps. Only
        # these are saved. A layer with a method `attention` is a Glimpses (components/training/counting.py).
        glimpses = next((layer for layer in model.layers if hasattr(layer, "attention")), None)
        parts = keras.Model(model.inputs, [model.output, *(glimpses.input if glimpses else [])])
        self._logits_and_parts = functools.partial(parts, training=False)
        self._attention = glimpses.attention if glimpses else None
        self._variables = [variable.value for variable in model.variables]
        self._spec = spec
        self._max_pixels = max_pixels
        self._size = (None, None) if wrong_size == "resize" else (spec.height, spec.width)
        self._raw_features = tft_output.raw_feature_spec()
        # Only its `call` is used, because a layer that Keras has built is saved with all that Keras knows about it, traced twice more.
        self._transform = tft_output.transform_features_layer()
        self._blank = tf.io.encode_png(tf.zeros([spec.height, spec.width, spec.channels], tf.uint8)).numpy()
        # One entry per class. The blank class, if there is one, is the last.
        self._characters = [*spec.characters, ""][: spec.num_classes]

    # No autograph: it has nothing to convert here, and its search of Keras' code takes longer than everything else.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=IMAGE)], autograph=False)
    def serving_default(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads encoded pictures, string [N]."""
        return self._reading(image)

    @property
    def explain(self) -> Any:
        """A tf.function like `serving_default` that also returns ATTENTION; None for a model with direct heads, which have no attention."""
        return self._read if self._attention else None

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def serving_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads the pictures of serialized tf.Examples, string [N]. An example without IMAGE counts as a picture that is not valid."""
        parsed = tf.io.parse_example(examples, {IMAGE: tf.io.FixedLenFeature([], tf.string, default_value="")})
        return self._reading(parsed[IMAGE])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def transform_features(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns LABEL_IDS int64 [N, max_length] of serialized tf.Examples, string [N]. Decodes no pictures."""
        raw = {name: feature for name, feature in self._raw_features.items() if name != IMAGE}
        return {LABEL_IDS: self._transform.call(tf.io.parse_example(examples, raw))[LABEL_IDS]}

    def normalisation(self) -> dict[str, float]:
        """Returns PIXEL_MEAN and PIXEL_STD, which are constants of Transform's graph."""
        found = self._transform.call({IMAGE: tf.constant([self._blank])})
        return {name: float(found[name][0]) for name in (PIXEL_MEAN, PIXEL_STD)}

    def _reading(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: output for name, output in self._read(images).items() if name != ATTENTION}

    # A function that all signatures call, so that the SavedModel has its graph once. TensorFlow drops the outputs that a signature does not
    # return when it makes the signature ready.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=IMAGE)], autograph=False)
    def _read(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.size(images)
        valid = self._decodable(images)
        # TensorFlow's convolution on the CPU fails on an empty batch.
        filler = tf.fill([tf.maximum(1 - count, 0)], self._blank)
        readable = tf.concat([tf.where(valid, images, self._blank), filler], axis=0)
        logits, *parts = tf.nest.flatten(self._logits_and_parts(model_inputs(self._transform.call({IMAGE: readable}), self._spec)))
        probabilities = tf.nn.softmax(logits[:count])
        ids, chosen = read(probabilities, self._spec.min_length, keras.ops)
        text = tf.strings.reduce_join(tf.gather(self._characters, ids), axis=-1)
        answer = {
            TEXT: tf.where(valid, text, ""),
            PROBABILITIES: tf.where(valid[:, tf.newaxis, tf.newaxis], probabilities, 0.0),
            CONFIDENCE: tf.where(valid, tf.cast(tf.reduce_prod(chosen, axis=-1), tf.float32), 0.0),
            VALID: valid,
        }
        if self._attention:
            weights = tf.transpose(self._attention(parts)[:count], [0, 2, 1])
            answer[ATTENTION] = tf.where(valid[:, tf.newaxis, tf.newaxis], weights, 0.0)
        return answer

    def _decodable(self, images: tf.Tensor) -> tf.Tensor:
        """Returns bool [N]: which pictures are small enough, can be decoded and have a size that is not refused.

        TensorFlow cannot report a decoding error without failing. `ignore_errors` of tf.data drops the elements that fail. The
        numbers of the remaining elements show which pictures they are. A blank picture goes first, so that at least one element remains.

        Transform's graph decodes the picture a second time. With that graph in the dataset, so that each picture is decoded once, one
        picture took 1.2 to 1.3 times as long, and batches of 64 took 0.9 times (JPEGs of 640x200) to 1.0 times as long (PNGs of 100x30):
        medians on one core.
        """
        count = tf.size(images, out_type=tf.int64) + 1

        # Returns a pixel too. With the number alone, TensorFlow would skip the decoding, because nothing else needs it.
        def decode(number: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Makes a picture that is too large fail as well, because an empty string is no picture. `filter` would be plainer, but
            # TensorFlow sets up each function of a dataset again in every call, which takes longer than decoding a small picture.
            image = tf.where(self._small(image), image, "")
            return number, tf.ensure_shape(visible_pixels(image), [*self._size, 3])[0, 0, 0]

        pictures = tf.data.Dataset.from_tensor_slices((tf.range(count), tf.concat([[self._blank], images], axis=0)))
        decoded = pictures.map(decode, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors(log_warning=False)
        numbers, _ = decoded.batch(count).get_single_element()
        return tf.scatter_nd(numbers[:, tf.newaxis], tf.ones_like(numbers, tf.bool), [count])[1:]

    def _small(self, image: tf.Tensor) -> tf.Tensor:
        """Returns bool []: whether a picture has 1 to max_pixels pixels by its header. Fails if it is neither PNG nor JPEG."""
        size = tf.cond(
            is_png(image),
            # IHDR, which must come first, starts with width and height as big-endian 32-bit numbers at byte 16.
            lambda: tf.io.decode_raw(tf.strings.substr(image, 16, 8), tf.int32, little_endian=False),
            lambda: tf.io.extract_jpeg_shape(image)[:2],
        )
        size = tf.cast(size, tf.int64)
        return tf.reduce_all(size > 0) & (tf.reduce_prod(size) <= self._max_pixels)


def export_model(
    model: keras.Model,
    tft_output: tft.TFTransformOutput,
    spec: CaptchaSpec,
    max_pixels: int,
    about: Mapping[str, Any],
    directory: str,
    wrong_size: Literal["resize", "refuse"] = "resize",
    background: Sequence[int] = WHITE,
) -> None:
    """Writes a SavedModel with the signatures of CaptchaServer. Its assets.extra contains what it reads and its weights.

    Args:
      model: float32, so that the SavedModel runs anywhere.
      tft_output: Transform's graph.
      spec: what the model reads.
      max_pixels: larger pictures are refused before they are decoded.
      about: JSON values, which are written to SPEC_FILE beside the spec.
      directory: of the SavedModel; created.
      wrong_size: whether pictures whose size differs from the spec's are resized or refused.
      background: the colour of transparent pixels in Transform's graph, RGB, 0 to 255. Like the numbers of the normalisation, it is
        written to SPEC_FILE, from which `captcha-pipeline export` takes it.
    """
    server = CaptchaServer(model, tft_output, spec, max_pixels, wrong_size)
    signatures = {name: getattr(server, name) for name in ("serving_default", "serving_examples", "transform_features")}
    if server.explain:
        signatures["explain"] = server.explain
    tf.saved_model.save(server, directory, signatures=signatures)
    extra = Path(directory) / "assets.extra"
    extra.mkdir(exist_ok=True)
    content = {
        "spec": spec.model_dump(mode="json"),
        SERVABLE: True,
        WRONG_SIZE: wrong_size,
        MAX_PIXELS: max_pixels,
        BACKGROUND: list(background),
        **server.normalisation(),
        **about,
    }
    (extra / SPEC_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for export in EXPORTS:
        export(model, extra)
