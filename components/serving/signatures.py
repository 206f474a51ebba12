"""What the SavedModel answers to: pictures, tf.Examples, and TFMA's question for the labels."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf
import tensorflow_transform as tft

from components.base.features import CONFIDENCE, IMAGE, LABEL_IDS, PROBABILITIES, SERVABLE, SPEC_FILE, TEXT, VALID, WEIGHTS_FILE, WRONG_SIZE
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import is_png, visible_pixels
from components.data.model_inputs import model_inputs
from components.evaluation.metrics import read
from components.serving.weights import save_weights


class CaptchaServer(tf.Module):
    """Transform's graph and the model, from encoded pictures to text.

    Each answer holds, in the order of the pictures: TEXT string [N], PROBABILITIES float32 [N, max_length, num_classes],
    CONFIDENCE float32 [N] and VALID bool [N]. A picture that is not a whole PNG or JPEG of at most `max_pixels`, or that is refused for its
    size, fails no other: its VALID is false, its TEXT empty, its numbers 0.
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
        # A function, which is not saved: a Keras model is saved with a second copy of each variable, and servers, which restore by name,
        # fill the copies that the graph does not read. The graph reads the TensorFlow variables that Keras wraps: these alone are saved.
        self._logits = functools.partial(model, training=False)
        self._variables = [variable.value for variable in model.variables]
        self._spec = spec
        self._max_pixels = max_pixels
        self._size = (None, None) if wrong_size == "resize" else (spec.height, spec.width)
        self._raw_features = tft_output.raw_feature_spec()
        # Only its `call` is used: a layer that Keras has built is saved with all that Keras knows of it, traced twice more.
        self._transform = tft_output.transform_features_layer()
        self._blank = tf.io.encode_png(tf.zeros([spec.height, spec.width, spec.channels], tf.uint8)).numpy()
        # One entry a class: the one for "no character here", where there is one, is the last.
        self._characters = [*spec.characters, ""][: spec.num_classes]

    # No autograph: there is nothing here for it to convert, and to find that out of Keras takes longer than all else.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=IMAGE)], autograph=False)
    def serving_default(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads encoded pictures."""
        return self._read(image)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def serving_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads the pictures of serialized tf.Examples; one without IMAGE counts as a picture that is not valid."""
        parsed = tf.io.parse_example(examples, {IMAGE: tf.io.FixedLenFeature([], tf.string, default_value="")})
        return self._read(parsed[IMAGE])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def transform_features(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns LABEL_IDS int64 [N, max_length] of serialized tf.Examples. No picture is decoded for it."""
        raw = {name: feature for name, feature in self._raw_features.items() if name != IMAGE}
        return {LABEL_IDS: self._transform.call(tf.io.parse_example(examples, raw))[LABEL_IDS]}

    def _read(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.size(images)
        valid = self._decodable(images)
        # TensorFlow's convolution on the CPU fails on a batch of no pictures.
        filler = tf.fill([tf.maximum(1 - count, 0)], self._blank)
        readable = tf.concat([tf.where(valid, images, self._blank), filler], axis=0)
        logits = self._logits(model_inputs(self._transform.call({IMAGE: readable}), self._spec))[:count]
        probabilities = tf.nn.softmax(logits)
        ids, chosen = read(probabilities, self._spec.min_length, keras.ops)
        text = tf.strings.reduce_join(tf.gather(self._characters, ids), axis=-1)
        return {
            TEXT: tf.where(valid, text, ""),
            PROBABILITIES: tf.where(valid[:, tf.newaxis, tf.newaxis], probabilities, 0.0),
            CONFIDENCE: tf.where(valid, tf.cast(tf.reduce_prod(chosen, axis=-1), tf.float32), 0.0),
            VALID: valid,
        }

    def _decodable(self, images: tf.Tensor) -> tf.Tensor:
        """Returns bool [N]: which pictures are small enough, can be decoded and have a size that is not refused.

        TensorFlow has no decoding that reports instead of failing. `ignore_errors` of tf.data drops the elements that fail; those
        that are left say which they are. A blank picture goes first, so that there always is one left.
        """
        count = tf.size(images, out_type=tf.int64) + 1

        # The number alone would let TensorFlow leave out the decoding, which nothing else needs.
        def decode(number: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # What is too large fails as well: no picture is an empty string. `filter` would say it more plainly, but TensorFlow
            # sets up each function of a dataset anew in every call, which takes longer than to decode a small picture.
            image = tf.where(self._small(image), image, "")
            return number, tf.ensure_shape(visible_pixels(image), [*self._size, 3])[0, 0, 0]

        pictures = tf.data.Dataset.from_tensor_slices((tf.range(count), tf.concat([[self._blank], images], axis=0)))
        decoded = pictures.map(decode, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors(log_warning=False)
        numbers, _ = decoded.batch(count).get_single_element()
        return tf.scatter_nd(numbers[:, tf.newaxis], tf.ones_like(numbers, tf.bool), [count])[1:]

    def _small(self, image: tf.Tensor) -> tf.Tensor:
        """Returns whether a picture, by its header alone, has 1 to max_pixels pixels. Fails on what is neither PNG nor JPEG."""
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
) -> None:
    """Writes a SavedModel with the signatures of CaptchaServer, and in assets.extra what it reads and its weights.

    Args:
      model: float32, so that the SavedModel runs anywhere.
      tft_output: Transform's graph.
      spec: what the model reads.
      max_pixels: larger pictures are refused before they are decoded.
      about: goes into SPEC_FILE as it is, beside the spec: JSON values.
      directory: of the SavedModel; created.
      wrong_size: whether pictures of another size than the spec's are resized or refused.
    """
    server = CaptchaServer(model, tft_output, spec, max_pixels, wrong_size)
    signatures = {name: getattr(server, name) for name in ("serving_default", "serving_examples", "transform_features")}
    tf.saved_model.save(server, directory, signatures=signatures)
    extra = Path(directory) / "assets.extra"
    extra.mkdir(exist_ok=True)
    save_weights(model, extra / WEIGHTS_FILE)
    content = json.dumps(
        {"spec": spec.model_dump(mode="json"), SERVABLE: True, WRONG_SIZE: wrong_size, **about}, ensure_ascii=False, indent=2
    )
    (extra / SPEC_FILE).write_text(content + "\n", encoding="utf-8")
