"""Finds the columns of a picture that show the character of each position, by counting characters."""

from typing import Final

import keras
from keras import ops

_KEY_UNITS: Final = 64
# Initially a column whose count is off by one has 1 / e of the weight. docs/recipe.md has the measurements used to choose it.
_SHARPNESS: Final = 1.0


class Count(keras.layers.Layer):
    """Counts the characters that have begun up to the middle of each column.

    A character begins in a column to the extent that it is read there and was not read in the column before. This is the expected number
    of characters that CTC's rule (Graves et al., "Connectionist Temporal Classification", 2006) would add, if columns were independent.

    Input: the logits of each column's reading, [N, w, characters + 1], with the blank last. Output: float32 [N, w].
    """

    def call(self, logits: keras.KerasTensor) -> keras.KerasTensor:
        read = ops.softmax(ops.cast(logits, "float32"))[..., :-1]
        before = ops.pad(read[:, :-1], ((0, 0), (1, 0), (0, 0)))
        begun = ops.sum(read * (1.0 - before), axis=-1)
        return ops.cumsum(begun, axis=1) - begun / 2


class Glimpses(keras.layers.Layer):
    """Selects what each position's head sees of the map: the mean of the columns, weighted by where the position's character is.

    Additive attention (Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate", 2015) with one
    learned query per position, all positions at once, as in the parallel visual attention of Yu et al., "Towards Accurate Scene Text
    Recognition with Semantic Reasoning Networks" (2020). The score of a column also depends on how near its count is to that of the
    position's character, because the look of a column does not tell which character of the text it shows. A glimpse contains one
    character, wherever it was, so that all heads can share their weights and learn from the characters of every position.

    Input: columns [N, w, C] and their counts [N, w]. Output: [N, positions, C].
    """

    def __init__(self, positions: int, name: str, dtype: keras.DTypePolicy):
        super().__init__(name=name, dtype=dtype)
        self._positions = positions

    def build(self, shapes: list[tuple[int | None, ...]]) -> None:
        _, width, size = shapes[0]
        self._keys = self.add_weight((size, _KEY_UNITS), "glorot_uniform", name="keys")
        self._queries = self.add_weight((_KEY_UNITS, self._positions), "glorot_uniform", name="queries")
        self._place = self.add_weight((width, self._positions), "zeros", name="place")  # where the character usually is
        self._sharpness = self.add_weight((), keras.initializers.Constant(_SHARPNESS), name="sharpness")

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
        columns, _ = inputs
        return ops.einsum("nwp,nwc->npc", ops.cast(self.attention(inputs), columns.dtype), columns)

    def attention(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
        """Returns the weights of the columns, float32 [N, w, positions]. Their sum over the columns is 1."""
        columns, counts = inputs
        seen = ops.add(ops.matmul(ops.tanh(ops.matmul(columns, self._keys)), self._queries), self._place)
        halfway = ops.arange(self._positions, dtype="float32") + 0.5  # the count in the middle of a character
        off = ops.cast(counts, "float32")[..., None] - halfway
        scores = ops.cast(seen, "float32") - ops.cast(self._sharpness, "float32") * off * off
        return ops.softmax(scores, axis=1)
