"""Builds tiny SavedModels whose answers say which version they are; run as a program: ``build_versions.py DIR``.

``DIR/plain-<n>`` answers n for each row; ``failing`` and ``slow`` take zeros, as a trial request sends, like any other.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# TensorFlow loads it unasked, which takes as long as the rest; nothing here needs it
sys.modules["keras"] = None  # type: ignore[assignment]

import tensorflow as tf  # noqa: E402


class Plain(tf.Module):
    """y = 0 * x + number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = tf.Variable(number)

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": x * 0.0 + self.number}


class Failing(Plain):
    """Fails for any row but zeros."""

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
    def __call__(self, x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_sum(tf.abs(x)), 0.0)]):
            return {"y": x * 0.0 + self.number}


class Slow(Plain):
    """Multiplies matrices first: 100 ms and more for any row but zeros."""

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
    def __call__(self, x: Any) -> dict[str, Any]:
        turns = tf.where(tf.reduce_sum(tf.abs(x)) > 0, 60, 0)
        matrix = tf.eye(512) * 0.5
        _, matrix = tf.while_loop(lambda i, _: i < turns, lambda i, m: (i + 1, tf.matmul(m, m)), [0, matrix])
        return {"y": x * 0.0 + self.number + 0.0 * tf.reduce_sum(matrix)}


def main(target: Path) -> None:
    """Write them all."""
    kinds: dict[str, tf.Module] = {f"plain-{number}": Plain(float(number)) for number in range(1, 5)}
    kinds |= {"failing": Failing(0.0), "slow": Slow(0.0)}
    for name, module in kinds.items():
        tf.saved_model.save(module, str(target / name), signatures={"serving_default": module.__call__})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
