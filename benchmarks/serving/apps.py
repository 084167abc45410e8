"""What tutorials would write, and what a careful reader of them would: FastAPI apps, and a server that does nothing.

``MODELS`` names the folder that ``benchmarks.serving.model`` has written. ``python -m
benchmarks.serving.apps plain PORT`` (or tuned, echo, floor) runs one; several may share the port, a socket each: behind
one socket a single process can end up with all connections.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response

from shared.wire import Answer, Connection, Head
from shared.wire.connection import Reply

MODELS = ("lenet", "dense")


def plain() -> Any:
    """A JSON body as lists, Keras' ``model(x)``, an answer as lists."""
    import keras
    import numpy as np

    app = FastAPI()
    folder = Path(os.environ["MODELS"])
    models = {name: keras.models.load_model(folder / f"{name}.keras", safe_mode=True) for name in MODELS}

    @app.post("/v1/models/{name}:predict")
    def predict(name: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"predictions": np.asarray(models[name](np.asarray(body["instances"], np.float32))).tolist()}

    return app


def tuned() -> Any:
    """orjson both ways, one compiled function, no thread hop, and a garbage collector that leaves TensorFlow alone."""
    import numpy as np
    import tensorflow as tf

    app = FastAPI()
    models = {name: compiled(name) for name in MODELS}

    @app.post("/v1/models/{name}:predict")
    async def predict(name: str, request: Request) -> Response:
        rows = np.asarray(orjson.loads(await request.body())["instances"], np.float32)
        answer = models[name](tf.constant(rows)).numpy()
        body = orjson.dumps({"predictions": answer}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")

    gc.collect()
    gc.freeze()
    return app


def compiled(name: str) -> Any:
    """The default signature of a SavedModel as one concrete function of one float32 batch."""
    import tensorflow as tf

    loaded = tf.saved_model.load(Path(os.environ["MODELS"]) / name / "1")
    signature = loaded.signatures["serving_default"]
    ((alias, spec),) = signature.structured_input_signature[1].items()
    (output,) = signature.structured_outputs
    function = tf.function(lambda rows: signature(**{alias: rows})[output], autograph=False)
    call = function.get_concrete_function(tf.TensorSpec(spec.shape, tf.float32))
    call.loaded = loaded  # it holds its variables weakly
    return call


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The floor of a Python server: the body is read and parsed, and the answer is always the same."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    rows = len(orjson.loads(body)["instances"])
    headers = [(b"content-type", b"application/json")]
    answer = b'{"predictions":%s}' % orjson.dumps([[0.1] * 10] * rows)
    headers.append((b"content-length", b"%d" % len(answer)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


class Floor(Connection):
    """The least that HTTP takes: the body is read, not looked at, and the answer is always the same."""

    _ANSWER = Answer(
        200, [(b"content-type", b"application/json")], orjson.dumps({"predictions": [[0.1] * 10]})
    )

    def __init__(self) -> None:
        super().__init__(self, keep_alive_seconds=60)

    def takes(self, head: Head) -> bool:
        return True

    def answer(self, head: Head, body: bytes, reply: Reply, connection: Connection) -> bool:
        reply(self._ANSWER)
        return True


async def _floor(listener: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(Floor, sock=listener)
    await server.serve_forever()


def main(name: str, port: int) -> None:
    """Serve until a signal."""
    makers: dict[str, Callable[[], Any]] = {"plain": plain, "tuned": tuned, "echo": lambda: echo}
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    if name == "floor":
        uvloop.run(_floor(listener))
        return
    app = makers[name]()
    uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
