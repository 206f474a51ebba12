"""How the positions of a text find their characters among the columns of a picture: by counting."""

from typing import Final

import keras
from keras import ops

_KEY_UNITS: Final = 64
# At first a column whose count is one off has 1 / e of the weight. docs/recipe.md has what it was chosen by.
_SHARPNESS: Final = 1.0


class Count(keras.layers.Layer):
    """How many characters have begun up to the middle of each column.

    A character begins in a column as far as it is read there and was not read in the column before: the expected number of characters that
    CTC's rule (Graves et al., "Connectionist Temporal Classification", 2006) would add, if columns were independent.

    From what each column is read as, logits [N, w, characters + 1] with the blank last, to float32 [N, w].
    """

    def call(self, logits: keras.KerasTensor) -> keras.KerasTensor:
        read = ops.softmax(ops.cast(logits, "float32"))[..., :-1]
        before = ops.pad(read[:, :-1], ((0, 0), (1, 0), (0, 0)))
        begun = ops.sum(read * (1.0 - before), axis=-1)
        return ops.cumsum(begun, axis=1) - begun / 2


class Glimpses(keras.layers.Layer):
    """What each position's head sees of the map: the mean of its columns, weighted by where the position's character is.

    Additive attention (Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate", 2015) with one
    learned query a position, all positions at once, as in the parallel visual attention of Yu et al., "Towards Accurate Scene Text
    Recognition with Semantic Reasoning Networks" (2020). To a column's score comes how near its count is to that of the position's
    character: what a column looks like cannot tell a query which character of the text it is. A glimpse holds one character, wherever it
    stood, so that all heads can share their weights: each then learns from every position's characters.

    From columns [N, w, C] and their counts [N, w] to [N, positions, C].
    """

    def __init__(self, positions: int, name: str, dtype: keras.DTypePolicy):
        super().__init__(name=name, dtype=dtype)
        self._positions = positions

    def build(self, shapes: list[tuple[int | None, ...]]) -> None:
        _, width, size = shapes[0]
        self._keys = self.add_weight((size, _KEY_UNITS), "glorot_uniform", name="keys")
        self._queries = self.add_weight((_KEY_UNITS, self._positions), "glorot_uniform", name="queries")
        self._place = self.add_weight((width, self._positions), "zeros", name="place")  # where it stands as a rule
        self._sharpness = self.add_weight((), keras.initializers.Constant(_SHARPNESS), name="sharpness")

    def call(self, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
        columns, counts = inputs
        seen = ops.add(ops.matmul(ops.tanh(ops.matmul(columns, self._keys)), self._queries), self._place)
        halfway = ops.arange(self._positions, dtype="float32") + 0.5  # the count in the middle of a character
        off = ops.cast(counts, "float32")[..., None] - halfway
        scores = ops.cast(seen, "float32") - ops.cast(self._sharpness, "float32") * off * off
        weights = ops.softmax(scores, axis=1)
        return ops.einsum("nwp,nwc->npc", ops.cast(weights, columns.dtype), columns)
