"""The embedded model server: TensorFlow Serving's REST and gRPC APIs, in one Python process.

::

    __main__ -> server ---> options          flags, TensorFlow Serving's names
                  |-------> rest             HTTP <-> dataplane: URLs, status codes, headers
                  |-------> grpc_server      gRPC's ports, deadlines, status codes; bytes in, bytes out
                  |           `-> grpc_methods, messages, tensors   official messages <-> dataplane
                  |                 `-> reload                      a new list of models over gRPC
                  |           `-> dataplane  predict, status, metadata; knows no transport
                  |                 |-> json_reader, decode, encode   JSON <-> arrays
  |                 |-> npy                           NumPy files <-> arrays
                  |                 |-> examples, scoring             tf.Example requests
                  |                 |-> inference                     requests that are arrays already
                  |                 `-> manager                       versions, handles, labels
                  |                       |-> policy                  which action comes next; pure
                  |                       |-> preparation             load, then trial, warmup, batching
                  |                       |     |-> lazy, litert, graph, protos   versions without TensorFlow
  |                       |     `-> loader, shapes    the only module with TensorFlow itself
                  |                       `-> integrity               is a version's folder whole?
                  |-------> source, config, watcher   which versions should be there
                  `-------> telemetry, metrics, trace   Prometheus, request log

It imports nothing of the other services, so ``tensorflow/serving`` can take its place.
"""
