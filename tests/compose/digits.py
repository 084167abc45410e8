"""Real data that needs no network: scikit-learn's 1,797 handwritten digits, 8x8, as an upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits


def write(file: Path) -> None:
    """An npz file with a training and a test part."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("uint8")
    np.savez(file, x_train=images[:1500], y_train=labels[:1500], x_test=images[1500:], y_test=labels[1500:])


def job(dataset: str, *, epochs: int = 2, publish: str | None = None, **more: Any) -> dict[str, Any]:
    """A request to train on it."""
    return {
        "kind": "train",
        "model": {"builder": "mlp", "params": {"units": [32]}},
        "dataset": {"npz": dataset},
        "fit": {"epochs": epochs, "batch_size": 50},
        "tensorboard": {"histogram_freq": 0, "write_images": False, "sample_images": 0},
        **({"publish": {"model": publish, "label": "stable"}} if publish else {}),
        **more,
    }
