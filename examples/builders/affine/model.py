"""The architecture."""

import keras

from .layers import Affine


def build_model(params):
    """One hidden layer behind the affine one; params: units (16), classes (2), a1 (1.0), b1 (0.0)."""
    return keras.Sequential(
        [
            Affine(params.get("a1", 1.0), params.get("b1", 0.0), name="affine"),
            keras.layers.Dense(params.get("units", 16), activation="relu"),
            keras.layers.Dense(params.get("classes", 2), activation="softmax"),
        ]
    )
