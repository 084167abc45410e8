"""Tables with text, booleans and gaps: trained on codes, served by raw columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from services.worker.training import columns
from services.worker.training.data.table import Column, raw_rows
from tests.training.conftest import SCALARS_ALONE, Job, Supervisor, changed

TABLE = (
    Column("age (years)", "age__years_", "numeric", missing=3, fill=30.5),
    Column("member", "member", "boolean"),
    Column("color", "color", "categorical", values=("", "blue", "red"), missing=2),
    Column("zip", "zip", "categorical", values=(10115, 20095), encoding="embedding", dimensions=3),
)


def _tensors(feeds: dict[str, Any]) -> dict[str, Any]:
    return {name: tf.constant(values) for name, values in feeds.items()}


class FrontTest(tf.test.TestCase):
    """The front end alone."""

    def test_raw_values_become_the_matrix_that_training_had(self) -> None:
        matrix = columns.front(TABLE)(
            {
                "age__years_": tf.constant([np.nan, 4.0]),
                "member": tf.constant([True, False]),
                "color": tf.constant(["red", "never seen"]),
                "zip": tf.constant([20095, 1], tf.int64),
            }
        )
        self.assertAllEqual(matrix, [[30.5, 1, 3, 2], [4, 0, 0, 0]])
        assert matrix.dtype == tf.float32

    def test_rows_of_the_matrix_can_be_sent_raw(self) -> None:
        rows = np.array([[1.5, 1, 1, 2], [2, 0, 3, 1], [0, 0, 0, 0]], np.float32)
        feeds = {name: tf.constant(values) for name, values in raw_rows(TABLE, rows).items()}
        self.assertAllEqual(columns.front(TABLE)(feeds), rows)
        examples = []
        for row in rows[:2]:
            features = tf.train.Features(feature=columns.example_of(row, TABLE))
            examples.append(tf.train.Example(features=features).SerializeToString())
        parsed = columns.from_examples(tf.constant(examples), TABLE)
        self.assertAllEqual(columns.front(TABLE)(parsed), rows[:2])

    def test_the_encoder_normalizes_numbers_and_spreads_codes(self) -> None:
        x = np.array([[1, 0, 1, 2], [3, 1, 3, 1]], np.float32)
        encode = columns.encoder(TABLE, x, normalize=True)
        out = encode(x).numpy()
        assert out.shape == (2, 2 + 4 + 3)
        self.assertAllClose(out[:, :6], [[-1, -1, 0, 1, 0, 0], [1, 1, 0, 0, 0, 1]])

    def test_a_model_on_raw_columns_is_saved_whole_and_trains_on(self) -> None:
        x = np.array([[1, 0, 1, 2], [3, 1, 3, 1], [2, 1, 0, 0]], np.float32)
        inputs = keras.Input((4,))
        encoded = columns.encoder(TABLE, x, normalize=True)(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(encoded), name="member")
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, np.array([0, 1, 1]), epochs=3, verbose=0)
        path = Path(self.get_temp_dir()) / "m.keras"
        columns.on_raw_columns(model, TABLE).save(path)
        loaded = keras.saving.load_model(path, safe_mode=True)
        feeds = raw_rows(TABLE, x)
        self.assertAllClose(
            loaded.predict(_tensors(feeds), verbose=0), model.predict(x, verbose=0), atol=1e-6
        )
        missing = _tensors({**feeds, "age__years_": np.full(3, np.nan, np.float32)})
        filled = np.concatenate([np.full((3, 1), 30.5, np.float32), x[:, 1:]], axis=1)
        self.assertAllClose(loaded.predict(missing, verbose=0), model.predict(filled, verbose=0), atol=1e-6)
        assert int(loaded.optimizer.iterations) == 3
        moments = [variable.numpy() for variable in loaded.optimizer.variables]
        for found, wanted in zip(moments, model.optimizer.variables, strict=True):
            self.assertAllEqual(found, wanted)
        rows = tf.data.Dataset.from_tensor_slices((_tensors(feeds), [0, 1, 1])).batch(3)
        loaded.fit(rows, shuffle=False, verbose=0)
        model.fit(x, np.array([0, 1, 1]), shuffle=False, verbose=0)
        self.assertAllClose(
            loaded.predict(_tensors(feeds), verbose=0), model.predict(x, verbose=0), atol=1e-6
        )

    def test_a_column_describes_itself_in_json(self) -> None:
        again = [Column.from_dict(json.loads(json.dumps(column.as_dict()))) for column in TABLE]
        assert tuple(again) == TABLE


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 customers; who buys follows from color, membership and age."""
    random = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("customers") / "customers.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["color", "age (years)", "member", "class", "zip", "buys"])
        for _ in range(400):
            color = str(random.choice(["red", "green", "blue", ""], p=[0.4, 0.3, 0.2, 0.1]))
            age, member = float(random.integers(18, 80)), bool(random.random() < 0.5)
            buys = (color == "red") ^ member ^ (age > 50)
            shown = "" if random.random() < 0.05 else f"{age:g}"
            zip_code = int(random.choice([10115, 20095]))
            writer.writerow(
                [color, shown, str(member).lower(), "x" if member else "y", zip_code, "yes" if buys else "no"]
            )
    return path


CUSTOMERS: dict[str, Any] = {
    "model": {"builder": "mlp", "params": {"units": [32, 16]}},
    "dataset": {
        "csv": "ds_x",
        "label": "buys",
        "missing": "impute",
        "stratify": True,
        "columns": {"zip": {"type": "categorical", "encoding": "embedding"}},
    },
    "fit": {"epochs": 15, "batch_size": 16, "learning_rate": 0.01, "deterministic": True},
    "publish": {"model": "customers"},
    "tensorboard": SCALARS_ALONE,
}


@pytest.fixture(scope="module")
def trained(shared_supervisor: Supervisor, customers: Path) -> Job:
    return shared_supervisor.run(CUSTOMERS, data=customers, run="trained")


def source_of(job: Job) -> dict[str, Any]:
    return {
        "folder": job.run_dir / "kept",
        "root": job.run_dir,
        "checkpoint": None,
        "lineage": {"job_id": "j"},
    }


def test_the_export_takes_raw_columns_and_answers_as_evaluation_did(trained: Job, customers: Path) -> None:
    job = trained
    assert job.last["metrics"]["test_accuracy"] > 0.85
    described = {column["name"]: column for column in job.noted()["data"]["columns"]}
    assert described["age (years)"]["fill"] == pytest.approx(49, abs=5)
    assert described["color"]["values"] == 4
    assert "warning" not in {event["event"] for event in job.events}, job.of("warning")
    inputs = job.last["signatures"]["serving_default"]["inputs"]
    assert {name: (spec["dtype"], spec["shape"]) for name, spec in inputs.items()} == {
        "age__years_": ("float32", [None]),
        "member": ("bool", [None]),
        "color": ("string", [None]),
        "c_class": ("string", [None]),
        "zip": ("int64", [None]),
    }
    with customers.open(newline="") as file:
        rows = list(csv.DictReader(file))
    answer = tf.saved_model.load(str(job.run_dir / "export")).signatures["serving_default"](
        age__years_=tf.constant([float(row["age (years)"] or "nan") for row in rows]),
        member=tf.constant([row["member"] == "true" for row in rows]),
        color=tf.constant([row["color"] for row in rows]),
        c_class=tf.constant([row["class"] for row in rows]),
        zip=tf.constant([int(row["zip"]) for row in rows], tf.int64),
    )["probabilities"]
    right = [
        ("no", "yes")[int(np.argmax(found))] == row["buys"] for found, row in zip(answer, rows, strict=True)
    ]
    assert np.mean(right) > 0.9
    facts = json.loads((job.run_dir / "export" / "assets.extra" / "modelyard.json").read_text())
    assert [column["alias"] for column in facts["table"]] == [
        "age__years_",
        "member",
        "color",
        "c_class",
        "zip",
    ]


def test_the_keras_format_takes_raw_columns_too(supervisor: Supervisor, trained: Job) -> None:
    source = source_of(trained)
    spec = {"kind": "export", "from": {"job": "job_trained"}, "formats": ["keras", "weights", "onnx"]}
    job = supervisor.run(spec, run="export", source=source)
    proofs = job.noted()["export"]
    assert proofs["keras"]["inputs"] == "raw columns"
    assert max(proof["difference"] for proof in proofs.values()) < 1e-5
    golden = np.load(trained.run_dir / "kept" / "golden.npz")
    described = json.loads((trained.run_dir / "kept" / "model.json").read_text())["table"]
    feeds = _tensors(raw_rows([Column.from_dict(column) for column in described], golden["rows"]))
    model = keras.saving.load_model(job.run_dir / "export" / "model.keras", safe_mode=True)
    np.testing.assert_allclose(model.predict(feeds, verbose=0), golden["answers"], atol=1e-5)
    assert int(model.optimizer.iterations) > 0
    one = {"age__years_": 41.0, "member": True, "color": "never seen", "c_class": "x", "zip": 10115}
    answer = model.predict({name: tf.constant([value]) for name, value in one.items()}, verbose=0)
    assert answer.shape == (1, 2)
    failed = supervisor.fail({**spec, "formats": ["h5"]}, run="h5", source=source)
    assert failed["code"] == "format_not_possible"


def test_fine_tuning_takes_a_table_with_other_gaps_but_not_other_categories(
    supervisor: Supervisor, customers: Path, tmp_path: Path, trained: Job
) -> None:
    source = source_of(trained)
    on = {**changed(CUSTOMERS, fit={"epochs": 1}), "model": {"from_job": {"job": "job_trained"}}}
    header, *rows = customers.read_text().splitlines(keepends=True)
    (tmp_path / "fewer.csv").write_text(header + "".join(rows[:200]))
    job = supervisor.run(on, data=tmp_path / "fewer.csv", run="fewer", source=source)
    fills = [run.noted()["data"]["columns"][0]["fill"] for run in (trained, job)]
    assert fills[0] != fills[1]
    text = "".join(rows)
    # a category more would shift the codes
    for name, other in (
        ("other", text.replace("red,", "pink,")),
        ("more", text + "mauve,30,true,x,10115,no\n" * 30),
    ):
        (tmp_path / f"{name}.csv").write_text(header + other)
        failed = supervisor.fail(on, data=tmp_path / f"{name}.csv", run=name, source=source)
        assert failed["code"] == "shape_mismatch"
        assert "categories" in failed["message"]


def test_streaming_a_table_gives_the_same_model(
    supervisor: Supervisor, customers: Path, trained: Job
) -> None:
    streamed = supervisor.run(changed(CUSTOMERS, dataset={"cache": False}), data=customers)
    assert [job.noted()["data"]["kept"] for job in (trained, streamed)] == ["memory", "disk"]
    assert streamed.last["metrics"] == pytest.approx(trained.last["metrics"], rel=1e-5)
