"""Which class was taken for which: counted over rows, and drawn so that a person can read it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.data.record import Array, Rows

MAX_CLASSES = 64  # of more, a picture can't be read
BATCH_BYTES = 16 * 2**20
CELL = 44  # pixels
FONT_SIZE = 14
_NAME_CHARACTERS = 20
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def count(model: keras.Model, rows: Rows, classes: int, *, logits: bool) -> Array:
    """int64 [classes, classes]: in row i and column j, how many rows of class i were taken for class j.

    Args:
        rows: inputs [N, ...] and class numbers [N].
        logits: what a model of one output gives is a logit, not a probability.
    """
    matrix = np.zeros((classes, classes), np.int64)
    forward = tf.function(lambda x: model(x, training=False), autograph=False, reduce_retracing=True)
    row_bytes = max(1, rows.x[:1].nbytes)
    batch = max(1, min(1024, BATCH_BYTES // row_bytes))
    for start in range(0, len(rows), batch):
        outputs = np.asarray(forward(tf.constant(rows.x[start : start + batch])))
        if outputs.shape[1] == 1:
            taken = (outputs[:, 0] > (0.0 if logits else 0.5)).astype(np.int64)
        else:
            taken = outputs.argmax(axis=1)
        true = np.asarray(rows.y[start : start + batch], np.int64)
        matrix += np.bincount(true * classes + taken, minlength=classes**2).reshape(classes, classes)
    return matrix


def draw(matrix: Array, names: list[str]) -> Array:
    """uint8 [height, width, 3]: a cell for each pair, darker with its share of the true class, with its count.

    True classes are rows, predicted ones columns; the names stand at the left and, turned, at the top.
    """
    from PIL import Image, ImageDraw, ImageFont

    labels = [_short(name) for name in names]
    font = ImageFont.load_default(FONT_SIZE)
    small = ImageFont.load_default(FONT_SIZE - 3)
    space = max(int(font.getlength(label)) for label in [*labels, "predicted"]) + 14
    top = space + 26
    left = space + 26
    size = CELL * len(labels)
    picture = Image.new("RGB", (left + size + 10, top + size + 10), _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((left + size / 2, 12), "predicted", _INK, font, anchor="mm")
    _turned(picture, "true", font, (2, top + size // 2 - 20), 40, 20)
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    for row, label in enumerate(labels):
        middle = top + row * CELL + CELL / 2
        pen.text((left - 6, middle), label, _INK, font, anchor="rm")
        _turned(picture, label, font, (left + row * CELL + CELL // 2 - 10, top - space - 2), space - 4, 20)
        for column in range(len(labels)):
            _cell(
                pen,
                (left + column * CELL, top + row * CELL),
                int(matrix[row, column]),
                float(shares[row, column]),
                row == column,
                small,
            )
    return np.asarray(picture)


def _cell(pen: Any, corner: tuple[int, int], number: int, share: float, right: bool, font: Any) -> None:
    full = (8, 81, 156) if right else (165, 15, 21)  # blue for right, red for wrong
    colour = tuple(round(255 + (strong - 255) * share) for strong in full)
    x, y = corner
    pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=colour)
    ink = _PAPER if share > 0.5 else ((150, 150, 150) if number == 0 else _INK)
    pen.text((x + CELL / 2 - 1, y + CELL / 2 - 1), _number(number), ink, font, anchor="mm")


def _turned(picture: Any, text: str, font: Any, corner: tuple[int, int], length: int, height: int) -> None:
    """``text`` from the bottom up, in a box of ``height`` by ``length`` whose upper left is ``corner``."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (length, height), _PAPER)
    ImageDraw.Draw(strip).text((0, height / 2), text, _INK, font, anchor="lm")
    picture.paste(strip.transpose(Image.Transpose.ROTATE_90), corner)


def _number(number: int) -> str:
    if number < 100_000:
        return str(number)
    return f"{number / 1000:.0f}k" if number < 10_000_000 else f"{number / 1e6:.0f}M"


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= _NAME_CHARACTERS else line[: _NAME_CHARACTERS - 1] + "…"
