"""One synthetic request to each signature of a version, before anybody else may use it.

A graph can load and yet be unable to answer: variables that were never restored, a lookup table whose file is
gone. TensorFlow Serving announces such a version as AVAILABLE and fails every request (tensorflow/serving
issues 1086 and 572). Here it fails to load, and the old version serves on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

import numpy as np

from services.serving.errors import Code, ServingError
from services.serving.signature import Array, Servable, Signature, TensorSpec, numpy_type

log = logging.getLogger("serving.trial")

# What a graph says that misses a part of itself. Anything else may be about the made-up values: an empty text is
# no JPEG, and a signature may want two rows.
_FATAL = frozenset({Code.FAILED_PRECONDITION, Code.NOT_FOUND, Code.INTERNAL, Code.DATA_LOSS})
# NOT_FOUND is also what a graph says that reads the file which a request names.
_NO_FILE = "No such file or directory"
# A signature whose smallest input is larger than this (64 MB of float32) is taken on trust.
_MOST_ELEMENTS = 2**24


def try_signatures(servable: Servable, names: Collection[str] | None = None) -> None:
    """Call every signature that has inputs of known rank, and outputs, once with zeros and empty texts.

    ``names``: only these.

    Raises:
        ServingError: if the answer shows that the version can't work; the text names the signature.
    """
    for signature in servable.signatures.values():
        inputs = _made_up(signature) if names is None or signature.name in names else None
        if inputs is None:
            continue
        try:
            servable.run(signature, inputs)
        except ServingError as error:
            if error.code in _FATAL and not (error.code is Code.NOT_FOUND and _NO_FILE in error.message):
                raise ServingError(
                    error.code, f"Trial request to signature {signature.name} failed: {error.message}"
                ) from error
            log.debug("signature %s refuses a made-up request: %s", signature.name, error)


def _made_up(signature: Signature) -> dict[str, Array] | None:
    """Inputs of the smallest declared shape; None if the signature can't be tried."""
    if not signature.inputs or not signature.outputs:
        return None
    inputs: dict[str, Array] = {}
    for alias, spec in signature.inputs.items():
        array = _zeros(spec)
        if array is None:
            return None
        inputs[alias] = array
    return inputs


def _zeros(spec: TensorSpec) -> Array | None:
    # No guess at an unknown rank: a wrong one can end the process, see ``shapes``.
    dtype = numpy_type(spec.dtype)
    if not spec.name or dtype is None or spec.shape is None:
        return None
    shape = tuple(1 if size < 0 else size for size in spec.shape)
    if math.prod(shape) > _MOST_ELEMENTS:
        return None
    if dtype == np.dtype(object):
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype)
