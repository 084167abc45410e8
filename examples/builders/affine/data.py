"""The data: two interleaved half moons, without a file."""

import numpy as np
import tensorflow as tf


def make_dataset(params):
    """Training, validation and test rows; params: rows (2000), noise (0.1), seed (1)."""
    rng = np.random.default_rng(params.get("seed", 1))
    rows = params.get("rows", 2000)
    y = rng.integers(0, 2, rows)
    angle = rng.uniform(0, np.pi, rows)
    x = np.stack([np.cos(angle) + y, np.where(y == 0, np.sin(angle), 0.5 - np.sin(angle))], axis=1)
    x = (x + rng.normal(0, params.get("noise", 0.1), x.shape)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    train, held = int(rows * 0.7), int(rows * 0.15)
    return (
        dataset.take(train).batch(64),
        dataset.skip(train).take(held).batch(64),
        dataset.skip(train + held).batch(64),
    )
