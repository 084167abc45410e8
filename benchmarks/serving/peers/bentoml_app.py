"""BentoML: one worker a core, adaptive batching on (https://docs.bentoml.com/)."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import numpy as np


@bentoml.service(workers=2, traffic={"timeout": 60})
class Lenet:
    def __init__(self) -> None:
        import tensorflow as tf

        self.loaded = tf.saved_model.load(Path(os.environ["MODELS"]) / "lenet" / "1")
        signature = self.loaded.signatures["serving_default"]
        ((alias, spec),) = signature.structured_input_signature[1].items()
        (output,) = signature.structured_outputs
        call = tf.function(lambda rows: signature(**{alias: rows})[output], autograph=False)
        self.call = call.get_concrete_function(tf.TensorSpec(spec.shape, tf.float32))
        self.constant = tf.constant

    @bentoml.api(batchable=True, max_batch_size=512, max_latency_ms=1000)
    def predict(self, instances: np.ndarray) -> np.ndarray:
        return self.call(self.constant(instances.astype(np.float32))).numpy()
