"""Probabilities as a model gives them, for property tests."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def heads(draw):
    """Draws probabilities, float32 [N, L, C], as a softmax in float32 gives them, and the minimum length of the text."""
    positions, classes = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Logits that differ by a hundred give probabilities of exactly 0.
    logits = rng.normal(scale=draw(st.sampled_from([0.1, 1, 10, 100])), size=(draw(st.integers(1, 6)), positions, classes))
    exponents = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True).astype(np.float32))
    probabilities = exponents / exponents.sum(axis=-1, keepdims=True)
    # TensorFlow treats denormal numbers as 0.
    return np.where(probabilities < np.finfo(np.float32).tiny, 0, probabilities), draw(st.integers(1, positions))
