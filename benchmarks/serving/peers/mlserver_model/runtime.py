"""MLServer: a custom runtime, parallel workers and adaptive batching (https://mlserver.readthedocs.io/)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Lenet(MLModel):
    async def load(self) -> bool:
        import tensorflow as tf

        self.loaded = tf.saved_model.load(Path(os.environ["MODELS"]) / "lenet" / "1")
        signature = self.loaded.signatures["serving_default"]
        ((alias, spec),) = signature.structured_input_signature[1].items()
        (output,) = signature.structured_outputs
        call = tf.function(lambda rows: signature(**{alias: rows})[output], autograph=False)
        self.call = call.get_concrete_function(tf.TensorSpec(spec.shape, tf.float32))
        self.constant = tf.constant
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        answer = self.call(self.constant(rows)).numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", answer)])
