"""The parity gate: golden requests against what a server answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.worker import parity

ROWS = np.arange(40, dtype=np.float32).reshape(40, 1)
NOTES = {"signature": "s", "input": "x", "output": "y", "tolerance": 1e-5}


def version(folder: Path, answers: Any, notes: Mapping[str, Any] = NOTES, rows: Any = ROWS) -> Path:
    beside = folder / parity.FOLDER
    beside.mkdir(parents=True)
    (beside / "golden.json").write_text(json.dumps(notes))
    np.savez(beside / "golden.npz", rows=rows, targets=rows, answers=np.asarray(answers, np.float32))
    return folder


def doubled(body: Mapping[str, Any]) -> dict[str, Any]:
    assert body["signature_name"] == "s"
    return {"outputs": [[2 * row[0]] for row in body["inputs"]["x"]]}


def test_equal_answers_pass_in_several_requests(tmp_path: Path) -> None:
    asked: list[int] = []

    def predict(body: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(len(body["inputs"]["x"]))
        return doubled(body)

    found = parity.check(version(tmp_path, ROWS * 2), predict)
    assert found == parity.Parity(40, 0.0, parity.SMALLEST_TOLERANCE)
    assert asked == [16, 16, 8]


def test_a_version_without_golden_requests_is_not_judged(tmp_path: Path) -> None:
    assert parity.check(tmp_path, doubled) is None


@pytest.mark.parametrize("wrong", [79.0, np.nan])
def test_one_wrong_row_fails_with_the_numbers(tmp_path: Path, wrong: float) -> None:
    answers = ROWS * 2
    answers[33] = wrong
    with pytest.raises(parity.ParityMismatch, match=r"40 rows .* \(row 33; at most 0.0001"):
        parity.check(version(tmp_path, answers), doubled)


def test_what_training_answered_with_nan_may_be_nan(tmp_path: Path) -> None:
    folder = version(tmp_path, ROWS * np.nan)
    found = parity.check(
        folder, lambda body: {"outputs": {"y": [[float("nan")] for _ in body["inputs"]["x"]]}}
    )
    assert found is not None


def test_answers_of_another_shape_fail(tmp_path: Path) -> None:
    with pytest.raises(parity.ParityMismatch, match=r"\[16\] numbers"):
        parity.check(version(tmp_path, ROWS), lambda body: {"outputs": [1.0] * len(body["inputs"]["x"])})


def test_a_table_is_asked_by_its_raw_columns(tmp_path: Path) -> None:
    words = [f"word {number}" for number in range(40)]
    folder = version(tmp_path, ROWS, {**NOTES, "inputs": {"x": words}})
    asked: list[str] = []

    def predict(body: Mapping[str, Any]) -> dict[str, Any]:
        asked.extend(body["inputs"]["x"])
        return {"outputs": [[float(word.split()[1])] for word in body["inputs"]["x"]]}

    assert parity.check(folder, predict) is not None
    assert asked == words


def test_large_rows_are_asked_up_to_a_bound(tmp_path: Path) -> None:
    rows = np.zeros((8, 400_000), np.float32)
    found = parity.check(
        version(tmp_path, np.zeros((8, 1)), rows=rows),
        lambda body: {"outputs": [[0.0]] * len(body["inputs"]["x"])},
    )
    assert found is not None
    assert found.rows == 1
