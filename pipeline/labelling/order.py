"""The order in which pictures are shown to be labelled. Needs NumPy only.

There are two kinds of pictures, and one picture in five is of the first kind. The split of a picture follows from its pixels
(components/data/splits.py), so its kind is known before it is labelled:

- Pictures of the eval and the test split come in a random order, see `random_order`. Nobody chooses them, so they are a simple random
  sample of the folder, and the accuracy on them is unbiased, whatever the order of the others.
- Pictures of the train split come in the order that should help the model most, see `Order`.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

RANDOM_SHARE: Final = 0.2  # of the labels: one in five
_CANDIDATES: Final = 400  # with a model, only this many pictures, those with the lowest confidence, are considered
_BLOCK: Final = 256  # pictures whose distances from all others are computed at once; more would need more memory


class Order:
    """Chooses the pictures whose labels help a model most, one at a time.

    Without a model, the next picture is the one whose nearest earlier picture is farthest away: the greedy solution of the k-centre problem
    (Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", algorithm 1).

    With a model, it is the picture with the largest product of two numbers: its doubt (1 minus the confidence of its reading), and its
    distance from the nearest picture that was chosen since the model was trained. Only the 400 pictures with the most doubt are compared.
    So the model is unsure about each chosen picture, and successive pictures are not near-duplicates. BADGE reaches the same by sampling
    (Ash et al. 2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds").
    """

    def __init__(self, embeddings: Embeddings):
        """Starts without a model and without earlier pictures.

        Args:
          embeddings: float32 [N, D] with finite values. They are not changed.
        """
        self._embeddings = embeddings
        self._squares = np.einsum("nd,nd->n", embeddings, embeddings)
        self.restart(())

    def restart(self, chosen: Iterable[int], doubt: npt.NDArray[np.floating] | None = None) -> None:
        """Forgets which pictures were chosen, and starts again, for example with the readings of a new model.

        Args:
          chosen: the indices of the pictures that later ones must differ from.
          doubt: float [N], 1 minus the model's confidence in its reading of each picture, 0 to 1; None without a model.
        """
        self._doubt = doubt
        self._first = True
        # Without earlier pictures, the first is the one that differs most from the average.
        self._distances = self._distances_from(self._embeddings.mean(axis=0, keepdims=True))
        indices = np.fromiter(chosen, np.int64)
        for start in range(0, len(indices), _BLOCK):
            self._add(self._embeddings[indices[start : start + _BLOCK]])

    def choose(self, index: int) -> None:
        """Notes that the picture `index` was chosen: later ones must differ from it."""
        self._add(self._embeddings[index : index + 1])

    def next(self, free: Mask) -> int | None:
        """Returns the index of the picture that helps most; None if no picture is free.

        Args:
          free: bool [N], true for the pictures to choose from.
        """
        candidates = np.flatnonzero(free)
        if not len(candidates):
            return None
        if self._doubt is None:
            return int(candidates[self._distances[candidates].argmax()])
        doubt = self._doubt[candidates]
        if len(candidates) > _CANDIDATES:
            most = np.argpartition(-doubt, _CANDIDATES - 1)[:_CANDIDATES]
            candidates, doubt = candidates[most], doubt[most]
        scores = doubt * np.sqrt(self._distances[candidates])
        # The score is 0 for a picture that equals an earlier one, or has no doubt. Of equal scores, the most doubtful picture comes first.
        return int(candidates[np.lexsort((doubt, scores))[-1]])

    def _add(self, rows: Embeddings) -> None:
        nearest = self._distances_from(rows)
        self._distances = nearest if self._first else np.minimum(self._distances, nearest)
        self._first = False

    def _distances_from(self, rows: Embeddings) -> npt.NDArray[np.float32]:
        """Returns the squared distance of each picture from the nearest of the vectors `rows`, float32 [M, D]: float32 [N]."""
        products = self._embeddings @ rows.T
        squares = self._squares[:, None] - 2 * products + np.einsum("md,md->m", rows, rows)
        return np.maximum(squares.min(axis=1), 0)  # rounding makes some negative


def random_order(keys: Sequence[bytes], groups: Iterable[Sequence[int]]) -> list[int]:
    """Returns the indices of all groups in one random order, which is always the same for the same pictures.

    Because the order is fixed, a picture that was shown but not labelled (the window was closed, or the program was killed) comes again. If
    a person could avoid pictures in this way, the accuracy on the others would be biased. The groups take turns in proportion to their
    sizes, so that even the first few labels include some of each group.

    Args:
      keys: of all pictures, from `components.data.splits.split_key`. They are hashes. The first half of a key decides the split, so
        pictures of a group are sorted by their reversed keys.
      groups: the indices of the pictures of each split.
    """
    places = list[tuple[float, bytes, int]]()
    for group in groups:
        shuffled = sorted((keys[index][::-1], index) for index in group)
        places += [((rank + 0.5) / len(shuffled), key, index) for rank, (key, index) in enumerate(shuffled)]
    return [index for _, _, index in sorted(places)]


def random_is_due(random: int, total: int) -> bool:
    """Returns whether the next picture must be a random one, so that the share of random pictures is at least RANDOM_SHARE.

    Args:
      random: the number of random pictures shown so far.
      total: the number of all pictures shown so far.
    """
    return random < RANDOM_SHARE * (total + 1)
