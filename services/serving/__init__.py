"""The embedded model server: TensorFlow Serving's REST API, in one Python process.

::

    __main__ -> server ---> options          flags, TensorFlow Serving's names
                  |-------> rest             HTTP <-> dataplane: URLs, status codes, headers
                  |           `-> dataplane  predict, status, metadata; knows no HTTP
                  |                 |-> json_reader, decode, encode   JSON <-> arrays
                  |                 |-> examples, scoring             tf.Example requests
                  |                 `-> manager                       versions, handles, labels
                  |                       |-> policy                  which action comes next; pure
                  |                       |-> loader                  the only module with TensorFlow
                  |                       `-> integrity               is a version's folder whole?
                  `-------> source, config   which versions should be there

It imports nothing of the other services, so ``tensorflow/serving`` can take its place.
"""
