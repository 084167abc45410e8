"""What data must be like, checked before anything is built. Pure NumPy.

Each check raises ``TrainingFailed`` with code ``data_invalid``, naming the array and the row.
"""

from __future__ import annotations

import numpy as np

from services.worker.training.data.record import Array, InputKind, RowArray, RowFile, Task, TrainingData
from services.worker.training.failures import data_invalid

MAX_CLASSES = 100_000
FEW_CLASSES = 20  # whole numbers in a float or csv label column are classes up to this many distinct ones

REGRESSION_LOSSES = frozenset(
    """Huber LogCosh MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError MeanSquaredLogarithmicError
    Poisson huber log_cosh mae mape mean_absolute_error mean_absolute_percentage_error mean_squared_error
    mean_squared_logarithmic_error mse msle poisson""".split()
)


def inputs(name: str, x: RowArray) -> tuple[RowArray, InputKind]:
    """``x`` as [N, ...] in a dtype that trains, and what kind of rows they are."""
    if x.dtype.kind not in "biuf":
        raise data_invalid(
            f"the array {name!r} has dtype {x.dtype}; inputs must be numbers",
            "Encode text and dates as numbers before saving the file.",
        )
    if x.ndim < 2:
        raise data_invalid(
            f"the array {name!r} has shape {x.shape}; inputs need one row per example, such as [rows, features]",
            "For a single feature, save it with shape [rows, 1].",
        )
    if 0 in x.shape:
        raise data_invalid(f"the array {name!r} is empty: its shape is {x.shape}")
    if x.dtype.kind == "f":
        finite(name, x)
    if x.dtype != np.uint8:
        if isinstance(x, RowFile):
            x = x.viewed(dtype=np.float32)
        else:
            with np.errstate(over="ignore"):
                x = np.ascontiguousarray(x, dtype=np.float32)
        finite(name, x)  # a double may be too large for a float
    channels = x.shape[-1] in {1, 3, 4}
    if x.ndim == 4 and channels:
        return x, "image"
    if x.ndim == 3 and x.dtype == np.uint8:
        return _with_channel(x), "image"
    return x, "tabular" if x.ndim == 2 else "tensor"


def _with_channel(x: RowArray) -> RowArray:
    if isinstance(x, RowFile):
        return x.viewed(row_shape=(*x.shape[1:], 1))
    return x[..., np.newaxis]


def finite(name: str, x: RowArray) -> None:
    """Refuse NaN and infinity, naming the first row that has one."""
    step = max(1, 2**22 // max(1, int(np.prod(x.shape[1:], dtype=np.int64))))
    for start in range(0, len(x), step):
        part = np.isfinite(x[start : start + step])
        if not part.all():
            row = start + int(np.argwhere(~part.reshape(len(part), -1).all(axis=1))[0, 0])
            raise data_invalid(
                f"the array {name!r} holds NaN or infinity, first in row {row}",
                "Fill in or drop missing values before saving the file.",
            )


def same_length(x_name: str, x: RowArray, y_name: str, y: Array) -> None:
    """Inputs and targets must go together."""
    if len(x) != len(y):
        raise data_invalid(f"{x_name!r} has {len(x)} rows but {y_name!r} has {len(y)}")


def same_shape(train_name: str, train: RowArray, test_name: str, test: RowArray) -> None:
    """Rows of all splits must look alike."""
    if train.shape[1:] != test.shape[1:]:
        raise data_invalid(
            f"rows of {train_name!r} have shape {list(train.shape[1:])} but rows of {test_name!r} have shape "
            f"{list(test.shape[1:])}"
        )


def task_of(y: Array, loss: str | None) -> Task:
    """Classes or numbers? A regression loss says numbers; else whole numbers, few of them if floats, say classes."""
    if loss in REGRESSION_LOSSES:
        return "regression"
    if y.dtype.kind != "f" or loss is not None:
        return "classification"  # what holds no numbers at all is refused by ``class_labels``
    if y.ndim == 2 and y.shape[1] > 1:
        return "classification" if is_one_hot(y) else "regression"
    with np.errstate(invalid="ignore"):
        whole = bool(np.all(y == np.floor(y)))
    return "classification" if whole and len(np.unique(y)) <= FEW_CLASSES else "regression"


def is_one_hot(y: Array) -> bool:
    """True when each row of ``y`` [N, K] has a single 1 and zeros."""
    return bool(np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1))


def class_labels(name: str, y: Array) -> Array:
    """Targets as int32 class numbers [N]; one-hot rows are read as classes."""
    y = _column(name, y)
    if y.ndim == 2:
        if not is_one_hot(y):
            raise data_invalid(
                f"the array {name!r} has shape {list(y.shape)}; class labels are one number a row, or one-hot rows",
                "For regression name a regression loss, such as mean_squared_error, in fit.loss.",
            )
        codes: Array = np.argmax(y, axis=1).astype(np.int32)
        return codes
    if y.dtype.kind == "f":
        finite(name, y)
        wrong = np.flatnonzero(y != np.floor(y))
        if len(wrong):
            raise data_invalid(
                f"the array {name!r} holds {float(y[wrong[0]])} in row {int(wrong[0])}; class labels are whole numbers "
                "from 0",
                "For regression name a regression loss, such as mean_squared_error, in fit.loss.",
            )
    wrong = np.flatnonzero(y < 0)
    if len(wrong):
        raise data_invalid(
            f"the array {name!r} holds the label {int(y[wrong[0]])} in row {int(wrong[0])}; labels count from 0"
        )
    if int(y.max()) >= MAX_CLASSES:
        raise data_invalid(
            f"the array {name!r} has labels up to {int(y.max())}; at most {MAX_CLASSES} classes are supported",
            "If these are numbers to predict, name a regression loss in fit.loss.",
        )
    return y.astype(np.int32)


def number_targets(name: str, y: Array) -> Array:
    """Targets as finite float32 [N] or [N, D]."""
    y = _column(name, y)
    if y.ndim > 2:
        raise data_invalid(
            f"the array {name!r} has shape {list(y.shape)}; targets are [rows] or [rows, numbers]"
        )
    with np.errstate(over="ignore"):
        y = y.astype(np.float32)
    finite(name, y)
    return y


def _column(name: str, y: Array) -> Array:
    if y.dtype.kind not in "biuf":
        raise data_invalid(
            f"the array {name!r} has dtype {y.dtype}; targets must be numbers",
            "Save class names as whole numbers from 0.",
        )
    if y.ndim == 0 or 0 in y.shape:
        raise data_invalid(f"the array {name!r} is empty: its shape is {y.shape}")
    return y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y


def batch_fits(data: TrainingData, batch_size: int) -> None:
    """A batch larger than all the rows is a mistake: an epoch would be one step."""
    if batch_size > len(data.train):
        raise data_invalid(
            f"fit.batch_size is {batch_size}, but there are only {len(data.train)} training rows",
            f"Set fit.batch_size to {len(data.train)} or less.",
        )
