"""One request as it is noted down on its way; metrics and the request log are made of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Trace:
    """What is known of a request so far. For one thread at a time."""

    entrypoint: str  # "REST" or "GRPC"
    api: str  # as TensorFlow Serving's metrics name it: "predict" over REST, "Predict" over gRPC, ...
    model: str = ""
    version: int | None = None  # the one that answered
    signature: str = ""
    examples: int = 0  # tf.Example messages, of classify and regress
    request_bytes: int = 0
    request_id: str = ""
    runtime: float | None = None  # seconds within the graph
    binary: bool = False  # answered by a NumPy file
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the call of the graph; only a call that ends well is timed."""
        began = time.perf_counter()
        yield
        self.runtime = (self.runtime or 0.0) + time.perf_counter() - began
