"""Counting which class was taken for which, and the picture of it."""

from __future__ import annotations

import keras
import numpy as np

from services.worker.training import confusion
from services.worker.training.data.record import Rows


def test_rows_are_counted_by_true_and_predicted_class() -> None:
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 1]]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    matrix = confusion.count(model, Rows(x, np.array([0, 1, 2, 0, 1], np.int32)), 3, logits=False)
    assert matrix.tolist() == [[1, 0, 1], [0, 2, 0], [0, 0, 1]]
    one = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
    values = Rows(np.array([[0.4], [0.6], [-1.0]], np.float32), np.array([0, 1, 1], np.int32))
    assert confusion.count(one, values, 2, logits=False).tolist() == [[1, 0], [1, 1]]
    assert confusion.count(one, values, 2, logits=True).tolist() == [[0, 1], [1, 1]]


def test_the_confusion_matrix_is_drawn_with_long_names_and_large_counts() -> None:
    matrix = np.array([[1_234_567, 3], [0, 0]])
    picture = confusion.draw(matrix, ["T-shirt / top with a very long name", "B\nag"])
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.shape[0] == picture.shape[1]
