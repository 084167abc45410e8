"""Builds the models once for all servers: ``python -m benchmarks.serving.model DIR``.

A program of its own, so that TensorFlow stays in it.

``DIR/lenet/1`` is a published version with its LiteRT model, ``DIR/lenet.keras`` the same for Keras, and
``DIR/lenet.npz`` rows with the answers that every server must give.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from services.worker.training.beside import saved_model_files

ROWS = 32


def models() -> dict[str, Any]:
    """LeNet, and a dense net, on images of 28x28."""
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(0)
    lenet = [
        tf.keras.Input((28, 28, 1)),
        layers.Conv2D(6, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(16, 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(120, activation="relu"),
        layers.Dense(84, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
    dense = [
        tf.keras.Input((784,)),
        layers.Dense(128, activation="relu"),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
    return {"lenet": tf.keras.Sequential(lenet), "dense": tf.keras.Sequential(dense)}


def main(target: Path) -> None:
    for name, model in models().items():
        write(target, name, model)


def write(target: Path, name: str, model: Any) -> None:
    shape = model.input_shape[1:]
    version = target / name / "1"
    archive = tf.keras.export.ExportArchive()
    archive.track(model)

    def serve(image: Any) -> dict[str, Any]:
        return {"probabilities": model(image, training=False)}

    archive.add_endpoint("serve", serve, [tf.TensorSpec([None, *shape], tf.float32, name="image")])
    archive.write_out(str(version), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(version), signature_keys=["serving_default"])
    content = converter.convert()
    beside = version / "assets.extra" / "modelyard"
    (beside / "litert").mkdir(parents=True)
    (beside / "litert" / "model.tflite").write_bytes(content)
    one = {"file": "litert/model.tflite", "sha256": hashlib.sha256(content).hexdigest()}
    notes = {"signatures": {"serving_default": one}, "saved_model": saved_model_files(version)}
    (beside / "litert.json").write_text(json.dumps(notes))
    model.save(target / f"{name}.keras")
    rows = np.random.default_rng(0).uniform(0, 1, (ROWS, *shape)).round(4).astype(np.float32)
    np.savez(target / f"{name}.npz", rows=rows, answers=np.asarray(model(rows, training=False)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
