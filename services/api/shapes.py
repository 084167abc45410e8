"""Says in words what a signature takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_SIGNATURE = "serving_default"


def expected_by(signatures: Mapping[str, Any], name: str | None) -> str | None:
    """``serving_default takes image: float32 of shape [any, 28, 28, 1].``; None when nothing is known."""
    wanted = name or DEFAULT_SIGNATURE
    found = signatures.get(wanted)
    if not signatures:
        return None
    if not isinstance(found, Mapping):
        return f"The version has the signatures {', '.join(sorted(signatures))}."
    inputs = found.get("inputs")
    if not isinstance(inputs, Mapping) or not inputs:
        return None
    parts = [f"{key}: {_tensor(value)}" for key, value in sorted(inputs.items())]
    return f"{wanted} takes {'; '.join(parts)}."


def _tensor(spec: Any) -> str:
    if not isinstance(spec, Mapping):
        return str(spec)
    shape = spec.get("shape")
    dtype = spec.get("dtype", "unknown")
    if not isinstance(shape, list):
        return f"{dtype} of any shape"
    sizes = ["any" if size in (None, -1) else str(size) for size in shape]
    return f"{dtype} of shape [{', '.join(sizes)}]"


def from_metadata(metadata: Any) -> dict[str, Any]:
    """TensorFlow Serving's answer to ``/metadata`` in the form of a version's record."""
    try:
        found = metadata["metadata"]["signature_def"]["signature_def"]
        return {
            name: {"inputs": {key: _from_tensor_info(info) for key, info in signature["inputs"].items()}}
            for name, signature in found.items()
            if not name.startswith("__")
        }
    except (KeyError, TypeError, AttributeError):
        return {}


def _from_tensor_info(info: Any) -> dict[str, Any]:
    shape = info["tensor_shape"]
    sizes = None if shape.get("unknown_rank") else [int(part["size"]) for part in shape.get("dim", [])]
    dtype = str(info["dtype"]).removeprefix("DT_").lower()
    return {"dtype": {"float": "float32", "double": "float64"}.get(dtype, dtype), "shape": sizes}
