"""mosec: one worker process a core, its own dynamic batching (https://mosecorg.github.io/mosec/)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from mosec import Server, Worker


class Predict(Worker):
    def __init__(self) -> None:
        super().__init__()
        import tensorflow as tf

        self.loaded = tf.saved_model.load(Path(os.environ["MODELS"]) / "lenet" / "1")
        signature = self.loaded.signatures["serving_default"]
        ((alias, spec),) = signature.structured_input_signature[1].items()
        (output,) = signature.structured_outputs
        call = tf.function(lambda rows: signature(**{alias: rows})[output], autograph=False)
        self.call = call.get_concrete_function(tf.TensorSpec(spec.shape, tf.float32))
        self.constant = tf.constant

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        parts = [np.asarray(one["instances"], np.float32) for one in data]
        answer = self.call(self.constant(np.concatenate(parts))).numpy()
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [{"predictions": part.tolist()} for part in np.split(answer, ends)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predict, num=2, max_batch_size=16, max_wait_time=1)
    server.run()
