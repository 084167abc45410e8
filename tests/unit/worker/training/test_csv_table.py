"""CSV columns of every kind become a matrix, and the matrix' meaning is known."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from services.worker.training.data import csv, csv_labels, csv_table
from services.worker.training.data.csv_labels import Labels
from services.worker.training.data.record import Rows, TrainingData
from services.worker.training.data.table import aliases, filled, raw_rows
from services.worker.training.failures import TrainingFailed
from shared.specs import CsvDataset

TEXT = """color,age,member,zip code,y
red,1.5,true,10115,a
green,,false,20095,b
red,3.5,True,10115,a
blue ,4,false,30159,b
"""
NAMES = "a,y\n" + "".join(f"name{i},{i % 2}\n" for i in range(50))


def load(tmp_path: Path, text: str = TEXT, **spec: Any) -> TrainingData:
    (tmp_path / "d.csv").write_text(text)
    dataset = CsvDataset.model_validate({"csv": "x", "label": "y", **spec})
    return csv.load(dataset, tmp_path / "d.csv", tmp_path / "cache", fingerprint="sha256:0", loss=None)


def test_kinds_are_told_by_the_cells(tmp_path: Path) -> None:
    data = load(
        tmp_path, missing="impute", columns={"zip code": {"type": "categorical", "encoding": "embedding"}}
    )
    assert data.table is not None
    assert [(c.name, c.alias, c.kind, c.dtype, c.values) for c in data.table] == [
        ("age", "age", "numeric", "float32", ()),
        ("member", "member", "boolean", "bool", ()),
        ("color", "color", "categorical", "string", ("blue ", "green", "red")),
        ("zip code", "zip_code", "categorical", "int64", (10115, 20095, 30159)),
    ]
    assert data.columns == ["age", "member", "color", "zip code"]
    assert data.table[3].dimensions == 6
    whole = filled(data)
    assert whole.train.x.tolist() == [[1.5, 1, 3, 1], [3, 0, 2, 2], [3.5, 1, 3, 1], [4, 0, 1, 3]]
    assert whole.table is not None
    assert (whole.table[0].fill, whole.table[0].missing) == (3.0, 1)


def test_gaps_are_refused_unless_asked_for_and_are_a_category_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingFailed, match=r"line 3, column 'age': the value is missing \(as in 1 of 4 rows\)"
    ):
        load(tmp_path)
    text = "color,flag,y\nred,true,a\n,,b\nred, ,a\n"
    with pytest.raises(TrainingFailed, match="line 3, column 'color'"):
        load(tmp_path, text, columns={"flag": {"missing": "impute"}})
    data = load(tmp_path, text, missing="impute")
    assert data.table is not None
    assert [column.values for column in data.table] == [("", "red"), ("", "true")]
    assert data.train.x.tolist() == [[2, 2], [1, 1], [2, 1]]


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        ("a,y\n1,0\n2,1\nx,0\n", {}, "line 4, column 'a': 'x' is not a number"),
        ("a,y\n1,0\nred,1\nred,1\n", {"columns": {"a": {"type": "numeric"}}}, "line 3, column 'a': 'red'"),
        ("a,y\nyes,0\nno,1\n", {"columns": {"a": {"type": "boolean"}}}, "declared boolean, but holds 'yes'"),
        ("a,y\n,0\n,1\n", {"missing": "impute"}, "empty in all rows"),
        (NAMES, {"columns": {"a": {"max_values": 20}}}, "names or free text"),
        ("a,b,y\nx,1,0\nx,1\n", {}, "line 3 has 2 fields where the header has 3"),
        ("a,y\nx,0\ny,\n", {}, "line 3: the label column 'y' is empty"),
    ],
)  # fmt: skip
def test_faults_name_line_and_column(tmp_path: Path, text: str, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingFailed) as caught:
        load(tmp_path, text, **spec)
    assert caught.value.code == "data_invalid"
    assert words in caught.value.message


def test_rare_values_share_the_slot_of_unknown_ones(tmp_path: Path) -> None:
    rows = ["red"] * 5 + ["green"] * 3 + ["blue"]
    text = "c,y\n" + "".join(f"{name},{index % 2}\n" for index, name in enumerate(rows))
    data = load(tmp_path, text, columns={"c": {"type": "categorical", "max_values": 2}})
    assert data.table is not None
    assert data.table[0].values == ("green", "red")
    assert data.train.x[:, 0].tolist() == [2.0] * 5 + [1.0] * 3 + [0.0]
    assert raw_rows(data.table, data.train.x[-2:])["c"].tolist() == ["green", "\x00unseen"]


def test_text_that_begins_late_is_counted_from_the_first_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "BLOCK_BYTES", 300)
    text = "c,y\n" + "".join(f"{index % 3},{index % 2}\n" for index in range(200))
    text += "".join(f"text{index % 3},{index % 2}\n" for index in range(300))
    data = load(tmp_path, text)
    assert data.table is not None
    assert data.table[0].values == ("0", "1", "2", "text0", "text1", "text2")
    assert data.train.x[:4, 0].tolist() == [1, 2, 3, 1]
    assert len(data.train) == 500


def test_the_matrix_may_lie_on_disk(tmp_path: Path) -> None:
    options = {"missing": "impute", "columns": {"zip code": {"type": "categorical"}}}
    memory = load(tmp_path, **options)
    disk = load(tmp_path, cache=False, **options)
    assert isinstance(disk.train.x, np.memmap)
    np.testing.assert_array_equal(disk.train.x, memory.train.x)
    again = load(tmp_path, cache=False, **options)
    np.testing.assert_array_equal(again.train.y, memory.train.y)


def test_plain_numbers_stay_a_plain_matrix(tmp_path: Path) -> None:
    assert load(tmp_path, "a,b,y\n1,2,0\n3,4,1\n").table is None
    table = load(tmp_path, "a,b,y\n1,2,0\n3,4,1\n", columns={"a": {"type": "numeric"}}).table
    assert table is not None
    assert [column.dtype for column in table] == ["float32", "float32"]


def test_aliases_are_names_that_tensorflow_takes() -> None:
    assert aliases(["age", "sepal length (cm)", "2nd", "a b", "a-b", "_x", "naïve", "class"]) == [
        "age", "sepal_length__cm_", "c_2nd", "a_b", "a_b_2", "c__x", "na_ve", "c_class"
    ]  # fmt: skip


def test_missing_numbers_of_all_parts_are_the_mean_of_the_training_rows(tmp_path: Path) -> None:
    data = load(tmp_path, "a,c,y\n1,r,0\n3,g,1\n,r,0\n", missing="impute")
    gaps = Rows(np.array([[np.nan, 1.0]], np.float32), np.array([0], np.int32))
    whole = filled(replace(data, test=gaps))
    assert whole.test is not None
    assert whole.test.x[:].tolist() == [[2.0, 1.0]]


def labels_of(*blocks: list[str]) -> Labels:
    labels = Labels("y")
    for block in blocks:
        labels.take(pa.array(block))
    return labels


def test_labels_are_numbers_if_all_are() -> None:
    numbers = labels_of(["1", " 2.5"], ["1e3", "nan"]).numbers()
    assert numbers is not None
    np.testing.assert_array_equal(numbers, [1, 2.5, 1000, np.nan])
    mixed = labels_of(["2", "10"], ["1_0", "2"])
    assert mixed.numbers() is None
    names, codes = mixed.texts()
    assert names == ["10", "1_0", "2"]
    assert (codes.tolist(), codes.dtype) == ([2, 0, 1, 2], np.int32)


def test_numbers_may_all_differ_but_texts_are_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_labels, "MAX_CLASSES", 3)
    numbers = labels_of(["1", "2"], ["3", "4"]).numbers()
    assert numbers is not None
    assert numbers.tolist() == [1, 2, 3, 4]
    with pytest.raises(TrainingFailed, match="more than 3 different values, and text such as 'red' among"):
        labels_of(["1", "2"], ["3", "4"], ["red"])


@pytest.mark.parametrize("label", ["{}.5", "class number {} of six with a long name to it"])
def test_a_row_on_disk_costs_few_bytes_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    monkeypatch.setattr(csv_table, "BLOCK_BYTES", 2**16)
    rows = 100_000
    text = "a,b,y\n" + "".join(f"{i % 7},red,{label.format(i % 6)}\n" for i in range(rows))
    (tmp_path / "d.csv").write_text(text)
    dataset = CsvDataset.model_validate({"csv": "x", "label": "y", "cache": False})
    tracemalloc.start()
    data = csv.load(dataset, tmp_path / "d.csv", tmp_path / "cache", fingerprint="sha256:0", loss=None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.train) == rows
    assert peak / rows < 60, f"{peak / rows:.0f} bytes a row"


def test_distinct_texts_are_bounded_over_all_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "MAX_VALUES", 5)
    text = "a,b,y\n" + "".join(f"x{index % 2},n{index},{index % 2}\n" for index in range(6))
    with pytest.raises(TrainingFailed, match=r"more than 5 different texts in all, 'b' the most of them: 6"):
        load(tmp_path, text)
