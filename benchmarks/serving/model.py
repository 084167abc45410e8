"""Builds LeNet once for all servers: ``python -m benchmarks.serving.model DIR`` (a program: TensorFlow stays in it).

``DIR/lenet/1`` is a published version with its LiteRT model, ``DIR/model.keras`` the same for Keras, and
``DIR/requests.npz`` rows with the answers that every server must give.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SHAPE = (28, 28, 1)


def main(target: Path) -> None:
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [
            tf.keras.Input(SHAPE),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    version = target / "lenet" / "1"
    archive = tf.keras.export.ExportArchive()
    archive.track(model)

    def serve(image: Any) -> dict[str, Any]:
        return {"probabilities": model(image, training=False)}

    archive.add_endpoint("serve", serve, [tf.TensorSpec([None, *SHAPE], tf.float32, name="image")])
    archive.write_out(str(version), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(version), signature_keys=["serving_default"])
    content = converter.convert()
    beside = version / "assets.extra" / "modelyard"
    (beside / "litert").mkdir(parents=True)
    (beside / "litert" / "model.tflite").write_bytes(content)
    one = {"file": "litert/model.tflite", "sha256": hashlib.sha256(content).hexdigest()}
    (beside / "litert.json").write_text(json.dumps({"signatures": {"serving_default": one}}))
    model.save(target / "model.keras")
    rows = np.random.default_rng(0).uniform(0, 1, (32, *SHAPE)).round(4).astype(np.float32)
    np.savez(target / "requests.npz", rows=rows, answers=np.asarray(model(rows, training=False)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
