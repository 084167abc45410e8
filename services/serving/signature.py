"""Signatures and data types as plain data, so that only the loader needs TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# TensorFlow's C++ names (they appear in error messages) of the types that JSON can carry. All others
# (half, bfloat16, complex64, ...) can be declared by a model but neither sent nor received.
NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint8": np.dtype(np.uint8),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
    "string": np.dtype(object),
}

# What JSON can't carry but gRPC can, and a trial request needs. bfloat16 is not numpy's own: see ``numpy_type``.
_BINARY_TYPES: Mapping[str, np.dtype[Any]] = {
    "half": np.dtype(np.float16),
    "uint16": np.dtype(np.uint16),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}

DEFAULT_SIGNATURE = "serving_default"


def numpy_type(dtype: str) -> np.dtype[Any] | None:
    """The array type of a TensorFlow type given by its C++ name; None for resources, quantized types, ..."""
    if dtype == "bfloat16":
        import ml_dtypes  # comes with TensorFlow

        brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return brain
    return {**NUMPY_TYPES, **_BINARY_TYPES}.get(dtype)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: the name in the graph, and what the model declares about it."""

    name: str  # "serving_default_x:0"; empty when it is not one dense tensor
    dtype: str  # TensorFlow's C++ name: "float", "string", "half", ...
    shape: tuple[int, ...] | None  # -1 = free; None = unknown rank


@dataclass(frozen=True)
class Signature:
    """A callable entry of a model. Both mappings are in alphabetical order of their aliases."""

    name: str
    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    # Type and value of the inputs that a request may leave out (over gRPC).
    defaults: Mapping[str, tuple[str, Array]] = field(default_factory=dict)


class Servable(Protocol):
    """A loaded version. ``run`` may be called from many threads at once; nothing is called after ``close``."""

    @property
    def signatures(self) -> Mapping[str, Signature]: ...

    @property
    def signature_def_json(self) -> Mapping[str, Any]:
        """All signatures in protobuf's JSON form, for the metadata answer."""
        ...

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        *,
        timeout: float | None = None,
        only: Sequence[str] = (),
    ) -> dict[str, Array]:
        """Call one signature with one array per input alias; answers one array per output alias.

        The arrays' types must be those of the signature; shapes are checked by the graph alone. ``timeout`` in
        seconds (infinity: none) takes the place of the server's limit; ``only`` names the outputs to compute.

        Raises:
            ServingError: with the code and text of TensorFlow's runtime.
        """
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class WrappedServable:
    """What servables that run another one's calls in their own way have of it."""

    def __init__(self, inner: Servable) -> None:
        self.inner = inner

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self.inner.signatures

    @property
    def signature_def_json(self) -> Mapping[str, Any]:
        return self.inner.signature_def_json
