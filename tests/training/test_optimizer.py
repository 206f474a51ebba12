import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.optimizer import Muon, orthogonalize

RATE = 1e-2


def step(optimizer: keras.optimizers.Optimizer, value: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Returns a variable after the optimizer has applied the gradients."""
    variable = keras.Variable(value)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return np.array(variable)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(7,), (), (5, 3), (4, 2, 3)])
def test_variables_other_than_convolution_kernels_take_adams_step(shape):
    gradients = [draw(*shape, seed=seed) for seed in (1, 2, 3)]
    np.testing.assert_array_equal(step(Muon(RATE), draw(*shape), gradients), step(keras.optimizers.Adam(RATE), draw(*shape), gradients))


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.sampled_from([1e-6, 1.0, 1e4]))
def test_orthogonalize_keeps_the_directions_and_evens_out_their_lengths(rows, columns, seed, size):
    matrix = size * draw(rows, columns, seed=seed)
    found = np.array(orthogonalize(keras.ops.convert_to_tensor(matrix)))
    left, lengths, right = np.linalg.svd(matrix, full_matrices=False)
    along = left.T @ found @ right.T  # in the basis in which the matrix is diagonal
    np.testing.assert_allclose(along, np.diag(np.diag(along)), atol=1e-2)
    clear = lengths > 0.02 * np.linalg.norm(lengths)  # five iterations raise shorter lengths only part of the way
    assert (np.diag(along)[clear] > 0.5).all()
    assert (np.diag(along) < 1.3).all()


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (1, 1, 2, 9), (3, 3, 1, 16)])
def test_a_kernel_moves_against_its_gradient_by_a_step_of_known_size(shape):
    height, width, inputs, outputs = shape
    gradient = draw(*shape, seed=1)
    moved = step(Muon(RATE), np.zeros(shape, np.float32), [gradient]).reshape(-1, outputs)
    lengths = np.linalg.svd(moved, compute_uv=False) / (RATE * 0.4 * max(height * width * inputs, outputs) ** 0.5)
    assert lengths.min() > 0.5
    assert lengths.max() < 1.3
    assert (moved * gradient.reshape(moved.shape)).sum() < 0


def test_the_size_of_the_gradient_does_not_matter():
    gradients = [draw(3, 3, 4, 8, seed=seed) for seed in (1, 2)]
    ours, larger = (step(Muon(RATE), draw(3, 3, 4, 8), [size * gradient for gradient in gradients]) for size in (1.0, 1000.0))
    np.testing.assert_allclose(ours, larger, atol=1e-5)


def test_a_zero_gradient_gives_no_step():
    kernel = draw(3, 3, 4, 8)
    np.testing.assert_array_equal(step(Muon(RATE), kernel, [np.zeros_like(kernel)]), kernel)


def test_momentum_moves_a_kernel_without_a_gradient():
    gradient, none = draw(3, 3, 4, 8, seed=1), np.zeros((3, 3, 4, 8), np.float32)
    once, carried = (step(Muon(RATE), none, gradients) for gradients in ([gradient], [gradient, none]))
    np.testing.assert_allclose(carried, 2 * once, rtol=0.02, atol=1e-4)
