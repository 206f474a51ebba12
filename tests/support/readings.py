"""Probabilities as a model gives them, for property tests."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def heads(draw):
    """Probabilities float32 [N, L, C] as a softmax in float32 gives them, of text of `min_length` characters or more."""
    positions, classes = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Logits a hundred apart leave probabilities of exactly 0.
    logits = rng.normal(scale=draw(st.sampled_from([0.1, 1, 10, 100])), size=(draw(st.integers(1, 6)), positions, classes))
    exponents = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True).astype(np.float32))
    probabilities = exponents / exponents.sum(axis=-1, keepdims=True)
    # TensorFlow takes denormal numbers for 0.
    return np.where(probabilities < np.finfo(np.float32).tiny, 0, probabilities), draw(st.integers(1, positions))
