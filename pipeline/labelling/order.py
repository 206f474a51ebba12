"""The order in which pictures are labelled. Pure NumPy.

Two kinds of pictures take turns. The split of a picture follows from its pixels (components/data/splits.py), so it is known before the
picture is labelled:

- Pictures of the eval and the test split come in a random order, see `random_order`. Nobody chooses them, so they are a simple random
  sample of the folder, and the accuracy on them is unbiased, whatever the order of the others.
- Pictures of the train split come in the order that helps the model most, see `Order`.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

RANDOM_SHARE: Final = 0.2  # of the labels: one in five
_CANDIDATES: Final = 400  # the most doubtful pictures, among which the most different is chosen
_BLOCK: Final = 256  # rows that are compared with all pictures at once, to bound the memory


class Order:
    """Chooses the pictures whose labels help a model most, one at a time.

    Without a model, the next picture is the one that is farthest from all earlier ones: the greedy solution of the k-centre problem (Sener
    and Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", algorithm 1). With a model, it is the one
    with the largest product of doubt, 1 minus the confidence of its reading, and distance from the pictures that were chosen since the
    model was made, among the most doubtful. So pictures in a row are uncertain, but not near-duplicates of each other, which is what BADGE
    reaches by drawing (Ash et al. 2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds").
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
        """Begins anew, for example with the readings of another model.

        Args:
          chosen: the pictures that later ones must differ from.
          doubt: [N] 0 to 1, 1 minus the confidence of a model; None without a model.
        """
        self._doubt = doubt
        self._first = True
        # Without earlier pictures, the first is the one that differs most from the average.
        self._distances = self._distances_from(self._embeddings.mean(axis=0, keepdims=True))
        indices = np.fromiter(chosen, np.int64)
        for start in range(0, len(indices), _BLOCK):
            self._add(self._embeddings[indices[start : start + _BLOCK]])

    def choose(self, index: int) -> None:
        """Notes that a picture was chosen: later ones must differ from it."""
        self._add(self._embeddings[index : index + 1])

    def next(self, free: Mask) -> int | None:
        """Returns the index of the picture that helps most; None if no picture is free.

        Args:
          free: [N] the pictures to choose from.
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
        # Pictures that all equal earlier ones, or about which there is no doubt, have a score of 0: the most doubtful of them is first.
        return int(candidates[np.lexsort((doubt, scores))[-1]])

    def _add(self, rows: Embeddings) -> None:
        nearest = self._distances_from(rows)
        self._distances = nearest if self._first else np.minimum(self._distances, nearest)
        self._first = False

    def _distances_from(self, rows: Embeddings) -> npt.NDArray[np.float32]:
        """Returns the squared distance [N] of each picture to the nearest of these vectors [M, D]."""
        products = self._embeddings @ rows.T
        squares = self._squares[:, None] - 2 * products + np.einsum("md,md->m", rows, rows)
        return np.maximum(squares.min(axis=1), 0)  # rounding makes some negative


def random_order(keys: Sequence[bytes], groups: Iterable[Sequence[int]]) -> list[int]:
    """Returns the indices of some groups in an order that is random, but always the same for the same pictures.

    A picture that was shown and not labelled, because the window was closed or the program was killed, therefore comes again. If such
    pictures could be avoided, the accuracy on the others would be biased. The groups take turns in proportion to their sizes, so that few
    labels are enough for some of each.

    Args:
      keys: of all pictures, from `components.data.splits.split_key`. They are hashes. Their first half decides the split, so the order
        within a group is that of their second half.
      groups: the indices of the pictures of each split.
    """
    places = list[tuple[float, bytes, int]]()
    for group in groups:
        shuffled = sorted((keys[index][::-1], index) for index in group)
        places += [((rank + 0.5) / len(shuffled), key, index) for rank, (key, index) in enumerate(shuffled)]
    return [index for _, _, index in sorted(places)]


def random_is_due(random: int, total: int) -> bool:
    """Returns whether the next picture is one of the random ones, so that their share stays at RANDOM_SHARE.

    Args:
      random: the number of random pictures so far.
      total: the number of all pictures so far.
    """
    return random < RANDOM_SHARE * (total + 1)
