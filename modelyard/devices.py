"""One device of a worker in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_device(device: Mapping[str, Any]) -> str:
    """``GPU:0 NVIDIA A100 (40.0 GB, compute 8.0)``, with what is known; from the worker's probe."""
    words = [str(device[key]) for key in ("name", "model") if device.get(key)]
    memory, capability = device.get("memory_mb"), device.get("compute_capability")
    facts = [f"{memory / 1024:.1f} GB"] if memory else []
    facts += [f"compute {capability}"] if capability else []
    return " ".join(words) + (f" ({', '.join(facts)})" if facts else "")
