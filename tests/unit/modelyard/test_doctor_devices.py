"""Devices and builds in words."""

from __future__ import annotations

from typing import Any

import pytest

from modelyard import doctor
from modelyard.devices import describe_device


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ({"name": "CPU:0", "type": "CPU", "model": None, "memory_mb": 24_064}, "CPU:0 (23.5 GB)"),
        (
            {"name": "GPU:0", "model": "NVIDIA A100", "memory_mb": 40_960, "compute_capability": "8.0"},
            "GPU:0 NVIDIA A100 (40.0 GB, compute 8.0)",
        ),
        ({"name": "GPU:1"}, "GPU:1"),
    ],
)
def test_a_device_in_words(device: dict[str, Any], words: str) -> None:
    assert describe_device(device) == words


def test_a_build_in_words() -> None:
    versions = {"tensorflow": "2.21.0", "keras": "3.15.1"}
    plain = {"versions": versions, "build": {"cuda": False, "rocm": False, "xla": True}}
    assert doctor._build(plain) == "2.21.0, Keras 3.15.1, built without CUDA, with XLA, without ROCm"
    build = {"cuda": True, "rocm": False, "xla": True, "cuda_version": "12.5.1", "cudnn_version": "9"}
    assert "built with CUDA 12.5.1, cuDNN 9, with XLA" in doctor._build(
        {"versions": versions, "build": build}
    )
