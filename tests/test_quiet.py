"""Loading TensorFlow, in processes of their own: it can be done once in each."""

import subprocess
import sys


def test_tensorflow_without_keras_and_keras_later():
    lines = (
        "from pipeline.quiet import load_tensorflow, silence",
        "silence()",
        "load_tensorflow(with_keras=False)",
        "import sys, tensorflow as tf",
        "assert not any(name.partition('.')[0] == 'keras' for name in sys.modules)",
        "import keras",
        "assert tf.keras.layers.Dense(2)(tf.zeros([3, 4])).shape == (3, 2)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
