"""Which inputs must fit the declared shape before they reach a graph.

TensorFlow Serving feeds whatever it is sent, and so do we, for most graphs answer a wrong shape with an error of their
own. Some kernels do not: given another rank, oneDNN's convolutions fail a check that ends the whole process
(tensor_format.h: "Invalid index from the dimension"). A request must never be able to do that, so models with such
kernels get their inputs checked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.serving.errors import Code, ServingError
from services.serving.signature import Array, Signature

_BRITTLE = (
    "Conv2D",
    "Conv3D",
    "DepthwiseConv2d",
    "MaxPool",
    "AvgPool",
    "LRN",
    "FusedBatchNorm",
    "Dilation2D",
)


def is_brittle(ops: Iterable[str]) -> bool:
    """Whether any of these op types may end the process when a tensor's rank is not what it was built for."""
    return any(part in op for op in ops for part in _BRITTLE)


def check_shapes(signature: Signature, inputs: Mapping[str, Array]) -> None:
    """Refuse inputs that do not fit the signature. Declared sizes of -1, and unknown ranks, fit everything.

    Raises:
        ServingError: INVALID_ARGUMENT, naming the input, its shape and the declared one.
    """
    for alias, spec in signature.inputs.items():
        if spec.shape is None:
            continue
        found = inputs[alias].shape
        fits = len(found) == len(spec.shape) and all(
            declared in (-1, size) for declared, size in zip(spec.shape, found, strict=True)
        )
        if not fits:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Input {alias} has shape {list(found)}, but the model takes {list(spec.shape)} (-1: any size)",
            )
