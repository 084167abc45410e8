"""The scripts that a person would write instead.

``textbook``: a cookbook's recipe: images padded to 32x32 and scaled, LeNet-5, batch 100, and Keras' TensorBoard
callback with histograms and weights as images each epoch. ``plain``: the same without the callback. Prints one line of
JSON, ``[{"at", "seconds", "accuracy"}, ...]`` by epoch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np

kind, folder, logs, epochs, batch, seed = (
    sys.argv[1],
    Path(sys.argv[2]),
    sys.argv[3],
    *map(int, sys.argv[4:7]),
)
train, test = (next(folder.glob(f"fashion_mnist-{split}*")) for split in ("train", "test"))


def images(path: Path) -> np.ndarray:
    return np.pad(np.load(path), ((0, 0), (2, 2), (2, 2), (0, 0))).astype(np.float32) / 255.0


x_train, y_train = images(train / "x.npy"), np.load(train / "y.npy")
x_test, y_test = images(test / "x.npy"), np.load(test / "y.npy")

keras.utils.set_random_seed(seed)
model = keras.Sequential(
    [
        keras.Input((32, 32, 1)),
        keras.layers.Conv2D(6, 5, activation="relu", name="C1"),
        keras.layers.MaxPooling2D(2, name="S2"),
        keras.layers.Conv2D(16, 5, activation="relu", name="C3"),
        keras.layers.MaxPooling2D(2, name="S4"),
        keras.layers.Flatten(),
        keras.layers.Dense(120, activation="relu", name="F5"),
        keras.layers.Dense(84, activation="relu", name="F6"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])


class Clock(keras.callbacks.Callback):
    """Ends an epoch after validation, and after the callbacks before it."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, float]] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        seconds = time.perf_counter() - self.began
        self.epochs.append(
            {"at": time.time(), "seconds": seconds, "accuracy": float((logs or {})["val_accuracy"])}
        )


clock = Clock()
board = keras.callbacks.TensorBoard(logs, histogram_freq=1, write_images=True)
model.fit(
    x_train, y_train, batch_size=batch, epochs=epochs, validation_data=(x_test, y_test), verbose=0,
    callbacks=[*([board] if kind == "textbook" else []), clock],
)  # fmt: skip
print(json.dumps(clock.epochs))
