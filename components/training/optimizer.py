"""The Trainer's optimizer: Muon for the kernels of convolutions, Adam for all other variables."""

from typing import Any, Final

import keras
from keras import ops

# Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): momentum, and the quintic Newton-Schulz iteration.
_MOMENTUM: Final = 0.95
_QUINTIC: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 5
# Liu et al., "Muon is Scalable for LLM Training" (2025), section 2.2, scale a step by 0.2 times the square root of the longer side. Its
# root mean square is then that of Adam, so that one learning rate suits both. Twice that reads best here; docs/recipe.md has the trials.
_SCALE: Final = 0.4


class Muon(keras.optimizers.Adam):
    """Adam, except that the kernels of convolutions take Muon's step: along the orthogonal matrix nearest to their momentum.

    A kernel float32 [h, w, in, out] is treated as the matrix [h * w * in, out]. The learning rate is Adam's own.

    `keras.optimizers.Muon` cannot be used: it leaves kernels of convolutions to AdamW, and fails under TensorFlow (Keras 3.12: it reads
    `path` of a TensorFlow variable).
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule | float, **options: Any):
        """Args:
        schedule: the learning rate, by step or constant.
        options: passed to Adam.
        """
        super().__init__(schedule, **options)
        self.schedule = schedule

    def update_step(self, gradient: keras.KerasTensor, variable: keras.Variable, learning_rate: keras.KerasTensor) -> None:
        """Called by Keras for each variable."""
        if len(variable.shape) != 4:
            super().update_step(gradient, variable, learning_rate)
            return
        gradient, rate = ops.cast(gradient, variable.dtype), ops.cast(learning_rate, variable.dtype)
        momentum = self._momentums[self._get_variable_index(variable)]

        def carried_on() -> keras.KerasTensor:
            return ops.add(ops.multiply(momentum, _MOMENTUM), ops.multiply(gradient, 1 - _MOMENTUM))

        self.assign(momentum, carried_on())
        height, width, inputs, outputs = variable.shape
        # Nesterov's momentum: that of the next step, as far as it is known.
        matrix = ops.reshape(carried_on(), (height * width * inputs, outputs))
        step = ops.multiply(orthogonalize(matrix), _SCALE * max(matrix.shape) ** 0.5)
        self.assign_sub(variable, ops.multiply(ops.reshape(step, variable.shape), rate))


def orthogonalize(matrix: keras.KerasTensor) -> keras.KerasTensor:
    """Returns about the nearest matrix with orthonormal rows or columns, float32 [m, n]: its singular values are about 0.7 to 1.2.

    Uses five Newton-Schulz iterations. Their coefficients are chosen for speed, not to converge to singular values of 1.

    Args:
      matrix: float32 [m, n].
    """
    rows, columns = matrix.shape
    wide = ops.transpose(matrix) if rows > columns else matrix  # gives the smaller square
    wide = ops.divide(wide, ops.add(ops.norm(wide), 1e-7))
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = ops.matmul(wide, ops.transpose(wide))
        polynomial = ops.add(ops.multiply(square, b), ops.multiply(ops.matmul(square, square), c))
        wide = ops.add(ops.multiply(wide, a), ops.matmul(polynomial, wide))
    return ops.transpose(wide) if rows > columns else wide
