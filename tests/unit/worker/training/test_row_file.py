"""Rows read from disk are the rows an array in memory has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.worker.training.data import splits
from services.worker.training.data.moments import mean_and_variance
from services.worker.training.data.record import Rows
from services.worker.training.data.row_file import RowFile, chunks_of
from services.worker.training.failures import TrainingFailed


@pytest.fixture
def both(tmp_path: Path) -> tuple[np.ndarray, RowFile]:
    x = np.random.default_rng(1).normal(size=(50, 3, 2))
    np.save(tmp_path / "x.npy", x)
    return x, RowFile.of_npy(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "rows",
    [slice(None), slice(3, 9), slice(40, 99), slice(9, 3), slice(0, 50, 7), np.array([5, 6, 7, 1]), np.array([], int)],
    ids=str,
)  # fmt: skip
def test_rows_are_those_of_the_array(both: tuple[np.ndarray, RowFile], rows: Any) -> None:
    x, file = both
    assert np.array_equal(file[rows], x[rows])
    odd = np.arange(50) % 2 == 1
    assert np.array_equal(file.subset(odd)[:4], x[odd][:4])
    assert np.array_equal(file.subset(odd).subset(np.arange(25) > 20)[:], x[odd][21:])


def test_it_may_be_read_as_another_shape_and_dtype(both: tuple[np.ndarray, RowFile]) -> None:
    x, file = both
    view = file.viewed(row_shape=(6,), dtype=np.float32)
    assert (view.shape, view.dtype, view.ndim, view.nbytes) == ((50, 6), np.float32, 2, 1200)
    assert np.array_equal(np.asarray(view), x.reshape(50, 6).astype(np.float32))
    with pytest.raises(ValueError, match="can't be read as"):
        file.viewed(row_shape=(5,))


def test_a_file_that_shrank_is_an_error(both: tuple[np.ndarray, RowFile]) -> None:
    _, file = both
    file.path.write_bytes(file.path.read_bytes()[:-10])
    with pytest.raises(OSError, match="shorter"):
        file[:]


def test_moments_are_those_of_numpy_wherever_the_rows_lie(
    both: tuple[np.ndarray, RowFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.worker.training.data.row_file.CHUNK_BYTES", 200)
    x, file = both
    assert len(list(chunks_of(file))) > 10
    mean, variance = mean_and_variance(file)
    assert np.allclose(mean, x.reshape(-1, 2).mean(axis=0), rtol=1e-12)
    assert np.allclose(variance, x.reshape(-1, 2).var(axis=0), rtol=1e-12)
    assert np.array_equal(mean_and_variance(x), (mean, variance))
    holes = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    assert [part.tolist() for part in mean_and_variance(holes)] == [[2.0, 0.0], [1.0, 0.0]]


def test_holding_out_takes_the_same_rows_from_disk(both: tuple[np.ndarray, RowFile]) -> None:
    x, file = both
    y = np.arange(50) % 5
    kept, held = splits.hold_out(Rows(file, y), 0.2, 7, purpose=1, field="f")
    kept_too, held_too = splits.hold_out(Rows(x, y), 0.2, 7, purpose=1, field="f")
    assert held is not None
    assert held_too is not None
    assert kept.on_disk
    assert held.on_disk
    assert np.array_equal(np.asarray(held.x), held_too.x)
    assert np.array_equal(np.asarray(kept.x), kept_too.x)
    read = kept.read(np.array([3, 1]))
    assert np.array_equal(read[0], kept_too.x[[3, 1]])
    assert np.array_equal(read[1], kept_too.y[[3, 1]])


@pytest.mark.parametrize("seed", range(5))
def test_stratified_splits_keep_the_shares_of_classes(seed: int) -> None:
    y = np.repeat([0, 1, 2], [700, 290, 10])
    x = np.arange(1000)[:, np.newaxis]
    kept, held = splits.hold_out(Rows(x, y), 0.2, seed, purpose=1, field="f", stratify=True)
    assert held is not None
    assert np.bincount(held.y).tolist() == [140, 58, 2]
    assert sorted([*kept.x[:, 0], *held.x[:, 0]]) == list(range(1000))
    again = splits.hold_out(Rows(x, y), 0.2, seed, purpose=1, field="f", stratify=True)[1]
    assert again is not None
    assert np.array_equal(again.x, held.x)


def test_a_class_with_one_row_stays_in_training() -> None:
    y = np.array([0] * 9 + [1])
    kept, held = splits.hold_out(Rows(np.zeros((10, 1)), y), 0.5, 1, purpose=1, field="f", stratify=True)
    assert held is not None
    assert (1 in kept.y, 1 in held.y, len(held)) == (True, False, 5)
    with pytest.raises(TrainingFailed, match="leaves no training rows"):
        splits.hold_out(Rows(np.zeros((1, 1)), y[:1]), 0.5, 1, purpose=1, field="f", stratify=True)
