"""Data that can't be trained on is refused with the place of the fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.worker.training.class_weights import class_weights
from services.worker.training.data import checks, csv, npz, splits
from services.worker.training.data.record import Rows, TrainingData
from services.worker.training.failures import TrainingFailed
from shared.specs import CsvDataset, FitSpec, NpzDataset

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([0, 1, 0, 1, 0, 1])


def load_npz(
    tmp_path: Path, spec: dict[str, Any] | None = None, loss: str | None = None, **arrays: Any
) -> TrainingData:
    np.savez(tmp_path / "d.npz", **arrays)
    dataset = NpzDataset.model_validate({"npz": "ds_x", **(spec or {})})
    return npz.load(dataset, tmp_path / "d.npz", tmp_path / "cache", fingerprint="sha256:0", loss=loss)


def load_csv(tmp_path: Path, text: str, loss: str | None = None, **spec: Any) -> TrainingData:
    (tmp_path / "d.csv").write_bytes(text.encode())
    dataset = CsvDataset.model_validate({"csv": "ds_x", "label": "y", **spec})
    return csv.load(dataset, tmp_path / "d.csv", tmp_path / "cache", fingerprint="sha256:0", loss=loss)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_train": X}, "no array 'y_train'"),
        ({"x_train": X, "y_train": Y[:5]}, "'x_train' has 6 rows but 'y_train' has 5"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "empty"),
        ({"x_train": X[:, 0], "y_train": Y}, "one row per example"),
        ({"x_train": X.astype("U4"), "y_train": Y}, "must be numbers"),
        ({"x_train": X.astype(object), "y_train": Y}, "pickled Python objects"),
        ({"x_train": X, "y_train": Y - 1}, "label -1 in row 0"),
        ({"x_train": X, "y_train": Y * 10**6}, "at most 100000 classes"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "but not its partner"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y}, "rows of 'x_test' have shape [1]"),
        ({"x_train": np.where(X == 5, np.nan, X), "y_train": Y}, "NaN or infinity, first in row 2"),
        ({"x_train": X.astype(np.float64) * 1e300, "y_train": Y}, "NaN or infinity"),
        ({"x_train": X, "y_train": np.array(3)}, "single value"),
        ({"x_train": X, "y_train": Y.astype("M8[s]")}, "targets must be numbers"),
        ({"x_train": X, "y_train": np.array(["a"] * 6)}, "the same label 'a'"),
        (
            {"x_train": X, "y_train": Y.astype("U1"), "x_test": X, "y_test": (Y * 2).astype("U1")},
            "'2' in row 1",
        ),
        ({"x_train": X, "y_train": Y.astype("U1"), "x_test": X, "y_test": Y}, "text labels are one a row"),
        ({"x_train": X, "y_train": np.array([b"\xff", b"a"] * 3)}, "not UTF-8"),
    ],
)
def test_npz_faults_are_named(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingFailed) as caught:
        load_npz(tmp_path, **arrays)
    assert caught.value.code == "data_invalid"
    assert words in caught.value.message


def test_text_labels_of_an_npz_file_are_classes_by_name(tmp_path: Path) -> None:
    y = np.array(["no", "grün", "no", "yes", "grün", "no"])
    for dtype in (np.str_, np.bytes_):
        given = np.char.encode(y, "utf-8") if dtype is np.bytes_ else y[:, np.newaxis]
        data = load_npz(tmp_path, x_train=X, y_train=given, x_test=X[:2], y_test=given[:2])
        assert data.classes == ["grün", "no", "yes"]
        assert data.train.y.tolist() == [1, 0, 1, 2, 0, 1]
        assert data.test is not None
        assert data.test.y.tolist() == [1, 0]
    with pytest.raises(TrainingFailed, match="must be numbers"):
        load_npz(tmp_path, loss="mse", x_train=X, y_train=y)


def test_an_npz_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(TrainingFailed, match="can't be read as an"):
        npz.load(NpzDataset(npz="x"), tmp_path / "d.npz", tmp_path / "cache", fingerprint="", loss=None)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(TrainingFailed, match="single array"):
        npz.load(NpzDataset(npz="x"), tmp_path / "d.npz", tmp_path / "cache", fingerprint="", loss=None)


def test_fractional_labels_with_a_class_loss_name_the_row(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"holds 0\.5 in row 1"):
        load_npz(tmp_path, x=X, y=np.array([0, 0.5, 1, 1, 0, 1]), loss="sparse_categorical_crossentropy")


@pytest.mark.parametrize(
    ("y", "loss", "task"),
    [
        (Y, None, "classification"),
        (Y, "mse", "regression"),
        (Y.astype(np.float32), None, "classification"),
        (np.linspace(0, 1, 6), None, "regression"),
        (np.eye(6), None, "classification"),
        (np.linspace(0, 1, 12).reshape(6, 2), None, "regression"),
        (Y.astype(bool), None, "classification"),
    ],
)
def test_the_task_follows_from_targets_and_loss(tmp_path: Path, y: Any, loss: str | None, task: str) -> None:
    data = load_npz(tmp_path, x=X, y=y, loss=loss)
    assert data.task == task
    assert data.train.y.dtype == (np.int32 if task == "classification" else np.float32)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "row"),
    [
        ((6, 8, 8, 1), np.uint8, "image", (8, 8, 1)),
        ((6, 8, 8), np.uint8, "image", (8, 8, 1)),
        ((6, 8, 8), np.float32, "tensor", (8, 8)),
        ((6, 8, 8, 5), np.float32, "tensor", (8, 8, 5)),
        ((6, 4), np.int64, "tabular", (4,)),
    ],
)
def test_kinds_of_rows(tmp_path: Path, shape: Any, dtype: Any, kind: str, row: Any) -> None:
    data = load_npz(tmp_path, x=np.zeros(shape, dtype), y=Y)
    assert (data.input_kind, data.input_shape) == (kind, row)
    assert data.train.x.dtype in (np.uint8, np.float32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("a,y\n", "header but no rows"),
        ("a,b\n1,2\n", "no column 'y' for the label; the columns are a, b"),
        ("a,a,y\n1,2,3\n", "stands in the header twice"),
        ("a,y\n1,0\n2\n", "line 3 has 1 fields where the header has 2"),
        ("a,y\n1,0\nred,1\n", "line 3, column 'a': 'red' is not a number"),
        ("a,y\n1,0\n,1\n", "line 3, column 'a': the value is missing"),
        ("a,y\n1,0\nnan,1\n", "line 3, column 'a': 'nan' is not a finite number"),
        ("a,y\n1,0\n2,\n", "line 3: the label column 'y' is empty"),
        ("a,y\n1,0\n2,0\n", "all rows have the same label"),
        ("y\n1\n", "no feature column"),
    ],
)
def test_csv_faults_name_line_and_column(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(TrainingFailed) as caught:
        load_csv(tmp_path, text)
    assert caught.value.code == "data_invalid"
    assert words in caught.value.message


def test_csv_line_numbers_count_lines_not_rows(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="line 4, column 'a'"):
        load_csv(tmp_path, 'a,y\n1,"two\nlines"\nx,b\n')


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_both_csv_readers_agree(
    tmp_path: Path, newline: str, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = mark + newline.join(["a,y,b", "1,cat,2.5", '-3e2,"do,g",4', " 5 ,cat,6", ""])
    fast = load_csv(tmp_path, text.replace(" 5 ", "5"))
    monkeypatch.setattr(csv, "_read_fast", lambda *_: None)
    slow = load_csv(tmp_path, text)
    np.testing.assert_array_equal(fast.train.x, slow.train.x)
    np.testing.assert_array_equal(fast.train.y, slow.train.y)
    assert fast.classes == slow.classes == ["cat", "do,g"]
    assert fast.columns == ["a", "b"]


def test_a_chosen_delimiter_and_features(tmp_path: Path) -> None:
    data = load_csv(tmp_path, "a;note;y\n1;x;7\n2;z;9\n3;w;7\n", delimiter=";", features=["a"])
    assert data.train.x.tolist() == [[1], [2], [3]]
    assert (data.classes, data.train.y.tolist()) == (["7", "9"], [0, 1, 0])


def test_many_different_numbers_in_the_label_are_a_regression(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},{i * 1.5}" for i in range(40))
    assert load_csv(tmp_path, f"a,y\n{rows}\n").task == "regression"
    with pytest.raises(TrainingFailed, match=r"set dataset\.task|40 different numbers"):
        load_csv(tmp_path, f"a,y\n{rows}\n", task="classification")


def test_held_out_rows_are_a_function_of_the_seed() -> None:
    rows = Rows(np.arange(100)[:, None], np.arange(100))
    kept, out = splits.hold_out(rows, 0.2, 7, purpose=1, field="f")
    again, same = splits.hold_out(rows, 0.2, 7, purpose=1, field="f")
    _, other = splits.hold_out(rows, 0.2, 8, purpose=1, field="f")
    assert out is not None
    assert same is not None
    assert other is not None
    assert (len(kept), len(out)) == (80, 20)
    assert sorted([*kept.y, *out.y]) == list(range(100))
    np.testing.assert_array_equal(out.y, same.y)
    np.testing.assert_array_equal(kept.y, again.y)
    assert not np.array_equal(out.y, other.y)


def test_a_split_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(TrainingFailed, match="leaves no training rows"):
        splits.hold_out(Rows(X[:1], Y[:1]), 0.9, 1, purpose=1, field="dataset.validation_split")


def test_one_hot_rows_become_class_numbers() -> None:
    np.testing.assert_array_equal(checks.class_labels("y", np.eye(3)[[2, 0]]), [2, 0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int16])
def test_inputs_of_an_archive_may_stay_on_disk(tmp_path: Path, save: Any, dtype: Any) -> None:
    x = np.random.default_rng(1).integers(0, 200, (40, 6, 5)).astype(dtype)
    save(tmp_path / "d.npz", first=np.zeros(3), x=x, y=np.arange(40) % 3)
    spec = NpzDataset.model_validate({"npz": "ds_x", "cache": False})
    other = tmp_path / "other"
    other.mkdir()
    for _ in range(2):
        data = npz.load(spec, tmp_path / "d.npz", tmp_path / "cache", fingerprint="sha256:0", loss=None)
        assert data.train.on_disk
        memory = load_npz(other, x=x, y=np.arange(40) % 3)
        assert (data.train.x.shape, data.train.x.dtype) == (memory.train.x.shape, memory.train.x.dtype)
        np.testing.assert_array_equal(data.train.x[:], memory.train.x)
        assert data.input_kind == memory.input_kind


@pytest.mark.parametrize(
    ("asked", "weights"),
    [
        (None, None),
        ("balanced", [0.75, 1.5, 1.0]),
        ({"cat": 2.0}, [2, 1, 1]),
        ({"0": 2.0, "2": 0.5}, [2, 1, 0.5]),
        ({"bird": 2.0}, "neither a class nor a class number"),
        ({"3": 2.0}, "neither a class nor a class number"),
        ({"0": 0, "1": 0}, "nothing would be learned"),
    ],
)
def test_class_weights(asked: Any, weights: Any) -> None:
    data = TrainingData(
        train=Rows(np.zeros((6, 2), np.float32), np.array([0, 0, 0, 0, 1, 1], np.int32)), validation=None, test=None,
        task="classification", input_kind="tabular", classes=["cat", "dog", "cow"], columns=None, fingerprint="",
        source="",
    )  # fmt: skip
    fit = FitSpec(class_weight=asked)
    if isinstance(weights, str):
        with pytest.raises(TrainingFailed, match=weights):
            class_weights(fit, data)
        return
    found = class_weights(fit, data)
    assert (found.tolist() if found is not None else None) == weights
