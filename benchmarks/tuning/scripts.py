"""The scripts that a person would write instead: ``grid`` and ``keras_tuner``, on the same space.

Prints one line of JSON: ``[{"at", "accuracy", "epochs"}, ...]`` by trial, ``at`` in seconds of the clock, at the end of
the epoch that had the trial's best accuracy.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.tuning import space

kind, folder = sys.argv[1], Path(sys.argv[2])
train, test = (next(folder.glob(f"fashion_mnist-{split}*")) for split in ("train", "test"))


def images(path: Path, rows: int) -> np.ndarray:
    return np.load(path / "x.npy")[:rows].astype(np.float32) / 255.0


x_train, y_train = images(train, space.TRAIN_ROWS), np.load(train / "y.npy")[: space.TRAIN_ROWS]
x_test, y_test = images(test, space.TEST_ROWS), np.load(test / "y.npy")[: space.TEST_ROWS]
trials: list[dict[str, Any]] = []


def model(units: str, optimizer: str, rate: float, dropout: float) -> keras.Model:
    layers: list[Any] = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
    for count in map(int, units.split(",")):
        layers += [keras.layers.Dense(count, activation="relu"), keras.layers.Dropout(dropout)]
    made = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    kind = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[optimizer]
    made.compile(kind(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


class Best(keras.callbacks.Callback):
    """Notes the trial's best accuracy and when it was reached."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.row = {"at": time.time(), "accuracy": -1.0, "epochs": 0}
        trials.append(self.row)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.row["epochs"] += 1
        if logs["val_accuracy"] > self.row["accuracy"]:
            self.row.update(at=time.time(), accuracy=float(logs["val_accuracy"]))


def grid() -> None:
    low, high = space.RATES
    rates = np.geomspace(low, high, space.RATE_POINTS)
    for chosen in itertools.product(space.UNITS, space.OPTIMIZERS, rates, space.DROPOUTS):
        keras.utils.set_random_seed(space.SEED)
        model(*chosen).fit(
            x_train, y_train, batch_size=space.BATCH, epochs=space.EPOCHS, validation_data=(x_test, y_test),
            verbose=0, callbacks=[Best()],
        )  # fmt: skip


def keras_tuner() -> None:
    import keras_tuner

    class Tuner(keras_tuner.Hyperband):
        """Ends when the budget is spent."""

        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
            if sum(row["epochs"] for row in trials) >= space.BUDGET:
                self.oracle.max_trials = len(trials)
                raise SystemExit
            return super().run_trial(trial, *args, **kwargs)

    def build(hp: Any) -> keras.Model:
        return model(
            hp.Choice("units", space.UNITS),
            hp.Choice("optimizer", space.OPTIMIZERS),
            hp.Float("rate", *space.RATES, sampling="log"),
            hp.Float("dropout", *space.DROPOUTS),
        )

    class Copied(Best):
        def __deepcopy__(self, _memo: Any) -> Copied:
            return Copied()

    with tempfile.TemporaryDirectory() as scratch:
        tuner = Tuner(
            build, objective="val_accuracy", max_epochs=space.EPOCHS, factor=3, hyperband_iterations=20,
            seed=space.SEED, directory=scratch, project_name="bench",
        )  # fmt: skip
        with contextlib.suppress(SystemExit):
            tuner.search(
                x_train, y_train, batch_size=space.BATCH, validation_data=(x_test, y_test), verbose=0,
                callbacks=[Copied()],
            )  # fmt: skip


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
{"grid": grid, "keras_tuner": keras_tuner}[kind]()
print(json.dumps(trials))
