"""What all sides of the comparison share: the space, the model, the data, the budget."""

from __future__ import annotations

from typing import Any

from benchmarks.size import sized

TRAIN_ROWS, TEST_ROWS = sized(20_000, 4_000), sized(5_000, 1_000)
EPOCHS = sized(9, 3)
BATCH = 128
SEED = 98
UNITS = ["64", "256,128"]
OPTIMIZERS = ["adam", "sgd"]
RATES = (1e-4, 1e-1)
RATE_POINTS = sized(4, 2)  # of the grid, evenly spread by their logarithm
DROPOUTS = (0.0, 0.4)  # the grid takes both ends
GRID = len(UNITS) * len(OPTIMIZERS) * RATE_POINTS * 2
BUDGET = GRID * EPOCHS  # epochs that each side may train


def study(**changes: Any) -> dict[str, Any]:
    """The same space as a tune job."""
    return {
        "kind": "tune",
        "base": {
            "model": {"builder": "mlp"},
            "dataset": {
                "tfds": "fashion_mnist",
                "train_split": f"train[:{TRAIN_ROWS}]",
                "test_split": f"test[:{TEST_ROWS}]",
            },
            "fit": {"epochs": EPOCHS, "batch_size": BATCH, "seed": SEED},
            "checkpoint": {"every": "30s", "keep": 1, "best": None},
        },
        "space": {
            "units": {"choice": UNITS},
            "fit.optimizer": {"choice": OPTIMIZERS},
            "fit.learning_rate": {"loguniform": list(RATES), "points": RATE_POINTS},
            "dropout": {"uniform": list(DROPOUTS)},
        },
        "objective": {"metric": "val_accuracy", "at": "best"},
        **changes,
    }
