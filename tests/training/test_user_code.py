"""The user's own builders, through the real preloader: trained, exported, resumed, and blamed when they fail."""

from __future__ import annotations

import json
import shutil
import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from services.worker.code import resolve_code
from services.worker.protocol import CodeSource
from shared import user_code
from shared.settings import Settings
from tests.training.conftest import DIGITS_JOB, SCALARS_ALONE, Supervisor, changed

EXAMPLES = Path(__file__).parents[2] / "examples" / "builders"
AFFINE: dict[str, Any] = {
    "model": {"builder": "affine", "params": {"units": 8}},
    "dataset": {"builder": "affine", "params": {"rows": 600}},
    "fit": {"epochs": 3, "batch_size": 32, "learning_rate": 0.02, "deterministic": True},
    "tensorboard": {"histogram_freq": 1, "sample_images": 0},
}


def code_of(folder: Path, *names: str) -> list[CodeSource]:
    """What the worker puts into a request, with the hashes that the API recorded."""
    found = {name: user_code.find(name, (folder,)) for name in names}
    recorded = {name: {"sha256": one.sha256} for name, one in found.items() if one is not None}
    return resolve_code(recorded, Settings(code_dirs=(folder,)))


def written(folder: Path, name: str, source: str) -> list[CodeSource]:
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return code_of(folder, name)


def test_the_example_trains_exports_and_answers(supervisor: Supervisor) -> None:
    code = code_of(EXAMPLES, "affine")
    job = supervisor.run(AFFINE, code=code)
    noted, finished = job.noted(), job.last
    assert noted["data"]["rows"] == {"train": 420, "validation": 90, "test": 90}
    assert noted["data"]["source"] == "builder affine"
    assert finished["metrics"]["test_accuracy"] > 0.8
    # the layer is in the exported model: a process that has never seen the user's code can ask it
    loaded = tf.saved_model.load(str(job.run_dir / "export"))
    assert "a1" in {variable.name.split(":")[0].split("/")[-1] for variable in loaded.variables}
    rows = tf.constant([[0.0, 1.0], [1.0, -0.5]])
    answer = loaded.signatures["serving_default"](features=rows)["probabilities"]
    assert np.argmax(answer, axis=1).tolist() == [0, 1]
    assert not (job.run_dir / "made_data").exists(), "what was made is deleted when it is no longer needed"
    assert not (EXAMPLES / "affine" / "__pycache__").exists()
    # an export loads the kept model anew, for which its classes must be known
    source = {"folder": job.run_dir / "kept", "root": job.run_dir}
    spec = {"kind": "export", "from": {"job": "job_affine"}, "formats": ["keras", "h5"]}
    exported = supervisor.run(spec, run="exported", source=source, code=code)
    assert all(proof["difference"] < 1e-6 for proof in exported.noted()["export"].values())


def test_a_stopped_job_goes_on_bit_for_bit_and_other_code_is_refused(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    folder = tmp_path / "code"
    shutil.copytree(EXAMPLES, folder)
    code = code_of(folder, "affine")
    spec = changed(AFFINE, fit={"epochs": 20}, checkpoint={"every": 5}, tensorboard=SCALARS_ALONE)
    whole = supervisor.run(spec, code=code, run="whole")
    supervisor.broken_off(spec, code=code, run="stopped", at=5, by=signal.SIGTERM)
    resumed = supervisor.run(spec, code=code, run="stopped", attempt=2)
    assert "resumed_from" in resumed.noted()
    assert resumed.last["metrics"] == whole.last["metrics"]

    model = folder / "affine" / "model.py"
    model.write_text(model.read_text().replace("relu", "tanh"))
    failed = supervisor.fail(spec, code=code, run="stopped", attempt=3)
    assert failed["code"] == "code_changed"
    assert "affine" in failed["message"]


COMPILED = """
    import keras

    class Scaled(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return 2.0 * keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    def half(y_true, y_pred):
        return 0.5 * keras.metrics.sparse_categorical_accuracy(y_true, y_pred)

    def build_model(units: int, rate=0.05):
        model = keras.Sequential([keras.layers.Flatten(), keras.layers.Rescaling(1 / 255.0),
                                  keras.layers.Dense(units, "relu"), keras.layers.Dense(10, "softmax")])
        model.compile(keras.optimizers.SGD(rate, momentum=0.9), Scaled(), metrics=["accuracy", half])
        return model
"""


def test_a_compiled_model_keeps_what_it_came_with_unless_the_job_names_another(
    supervisor: Supervisor, digits: Path, tmp_path: Path
) -> None:
    code = written(tmp_path, "compiled", COMPILED)
    spec = {
        "model": {"builder": "compiled", "params": {"units": 16}},
        "dataset": {"npz": "ds_x"},
        "fit": {"epochs": 2, "batch_size": 64},
        "tensorboard": SCALARS_ALONE,
    }
    own = supervisor.run(spec, data=digits, code=code)
    assert own.noted()["model"]["optimizer"] == "SGD"
    assert own.noted()["model"]["loss"] == "scaled"
    metrics = own.last["metrics"]
    assert metrics["test_half"] == pytest.approx(metrics["test_accuracy"] / 2, abs=1e-6)
    other = changed(spec, fit={"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": []})
    named = supervisor.run(other, data=digits, code=code, run="named")
    assert named.noted()["model"]["optimizer"] == "Adam"
    assert named.noted()["model"]["loss"] == "SparseCategoricalCrossentropy"
    assert set(named.last["metrics"]) == {"test_loss"}


FAILURES = {
    "raises": ("import keras\ndef build_model(params):\n    raise ValueError('no units')\n", 3, "no units"),
    "syntax": ("def build_model(params):\n    return (\n", None, "SyntaxError"),
    "missing": ("import no_such_module\ndef build_model(params): ...\n", 1, "no_such_module"),
    "exits": ("import sys\ndef build_model(params):\n    sys.exit(3)\n", 3, "sys.exit(3)"),
    "leaves": ("import os\ndef build_model(params):\n    os._exit(0)\n", 3, "os._exit(0)"),
    "recurses": ("def build_model(params):\n    return build_model(params)\n", 2, "RecursionError"),
    "nothing": ("def build_model(params):\n    pass\n", None, "nothing (None), not a Keras model"),
    "talks": (
        "def build_model(params):\n    print('x' * 5_000_000)\n    raise KeyError('units')\n", 3, "'units'"
    ),
    "layer": (
        "import keras\nclass Bad(keras.layers.Layer):\n    def call(self, x):\n        return x @ x.nothing\n"
        "def build_model(params):\n    return keras.Sequential([Bad()])\n", 4, "nothing"
    ),
    "graph": (
        "import keras\nimport tensorflow as tf\nclass Strict(keras.layers.Layer):\n    def call(self, x):\n"
        "        tf.debugging.assert_less(x, tf.cast(0, x.dtype), message='too bright')\n        return x\n"
        "def build_model(params):\n    return keras.Sequential([Strict(), keras.layers.Flatten(), "
        "keras.layers.Dense(10, 'softmax')])\n", 5, "InvalidArgumentError: assertion failed: [too bright]"
    ),
    "surrogate": ("def build_model(params):\n    raise ValueError('\\ud800 \\x1b[31mred')\n", 2, "\\ud800 red"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_of_theirs_has_their_file_and_line(
    name: str, supervisor: Supervisor, digits: Path, tmp_path: Path
) -> None:
    source, line, words = FAILURES[name]
    (tmp_path / f"{name}.py").write_text(source)
    code = [
        CodeSource(
            name=name,
            path=tmp_path / f"{name}.py",
            hashed=tmp_path / f"{name}.py",
            modules={"build_model": ""},
            takes_params={"build_model": True},
        )
    ]
    spec = {"model": {"builder": name}, "dataset": {"npz": "ds_x"}, "fit": {"epochs": 1, "batch_size": 64}}
    failed = supervisor.fail(spec, data=digits, code=code)
    assert failed["code"] == "user_code", failed
    assert words in failed["message"]
    if line is not None:
        assert f"{name}.py, line {line}: " in failed["message"]
        assert f'{name}.py", line {line}' in failed["detail"]
    assert len(json.dumps(failed)) < 10_000


def test_a_layer_that_cant_be_written_down_is_told_before_training(
    supervisor: Supervisor, digits: Path, tmp_path: Path
) -> None:
    source = """
        import keras

        class Silent(keras.layers.Layer):
            def __init__(self, function):
                super().__init__()
                self.function = function

            def call(self, x):
                return self.function(x)

        def build_model(params):
            return keras.Sequential([keras.layers.Flatten(), Silent(lambda x: x / 255), keras.layers.Dense(10)])
    """
    code = written(tmp_path, "silent", source)
    spec = {
        "model": {"builder": "silent"},
        "dataset": {"npz": "ds_x"},
        "fit": {"epochs": 1, "batch_size": 64},
    }
    failed = supervisor.fail(spec, data=digits, code=code)
    assert (failed["code"], "get_config" in failed["hint"]) == ("user_code", True), failed


def test_an_error_while_training_is_theirs_too(supervisor: Supervisor, digits: Path, tmp_path: Path) -> None:
    source = """
        import keras, tensorflow as tf

        class Late(keras.layers.Layer):
            def call(self, x, training=False):
                if training:
                    raise RuntimeError("not in training")
                return x

        def build_model(params):
            return keras.Sequential([keras.layers.Flatten(), Late(), keras.layers.Dense(10)])
    """
    code = written(tmp_path, "late", source)
    spec = {"model": {"builder": "late"}, "dataset": {"npz": "ds_x"}, "fit": {"epochs": 1, "batch_size": 64}}
    failed = supervisor.fail(spec, data=digits, code=code)
    assert failed["code"] == "user_code"
    assert "late.py, line 7: RuntimeError: not in training" in failed["message"]


DATA = """
    import numpy as np, tensorflow as tf

    def broken():
        yield np.zeros(4, "float32"), 1
        raise KeyError("no such row")

    def make_dataset(kind):
        x, y = np.random.rand(96, 4).astype("float32"), np.arange(96) % 3
        rows = tf.data.Dataset.from_tensor_slices((x, y))
        spec, count = tf.TensorSpec((4,)), tf.TensorSpec((), tf.int32)
        return {
            "arrays": lambda: (x, y),
            "tuple": lambda: ((x, y), None, (x[:30], y[:30])),
            "dict": lambda: {"train": rows, "test": rows.batch(7)},
            "endless": lambda: rows.repeat(),
            "one": lambda: rows.batch(10).map(lambda a, b: {"a": a, "b": b}),
            "unclear": lambda: tf.data.Dataset.from_tensor_slices((x, tf.one_hot(y, 4))),
            "none": lambda: None,
            "generator": lambda: tf.data.Dataset.from_generator(broken, output_signature=(spec, count)),
            "late": lambda: rows.map(lambda a, b: (tf.gather(a, 7 + b), b)),
        }[kind]()
"""


@pytest.mark.parametrize(
    ("kind", "options", "rows"),
    [
        ("arrays", {"test_split": 0.25, "validation_split": 0.25}, (54, 18, 24)),
        ("tuple", {}, (96, 30, 30)),
        ("dict", {}, (96, 96, 96)),
        ("endless", {"rows": 200}, (200, 0, 0)),
        ("unclear", {"batched": False}, (96, 0, 0)),
    ],
)
def test_forms_of_data(
    kind: str, options: dict[str, Any], rows: tuple[int, ...], supervisor: Supervisor, tmp_path: Path
) -> None:
    code = written(tmp_path, "data", DATA)
    job = supervisor.run(
        {
            "model": {"builder": "mlp", "params": {"units": 4}},
            "dataset": {"builder": "data", "params": {"kind": kind}, **options},
            "fit": {"epochs": 1, "batch_size": 32},
            "tensorboard": SCALARS_ALONE,
        },
        code=code,
    )
    assert tuple(job.noted()["data"]["rows"].values()) == rows
    assert job.noted()["data"]["classes"] == (4 if kind == "unclear" else 3)


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("endless", "data_invalid", "endless"),
        ("one", "data_invalid", "another form than (x, y)"),
        ("unclear", "data_invalid", "row or a batch"),
        ("none", "user_code", "returned nothing"),
        ("late", "user_code", "make_dataset of data: InvalidArgumentError"),
        ("generator", "user_code", "data.py, line 6: KeyError: 'no such row'"),
    ],
)
def test_data_that_cant_be_used_are_refused_in_words(
    kind: str, code: str, words: str, supervisor: Supervisor, tmp_path: Path
) -> None:
    sources = written(tmp_path, "data", DATA)
    spec = {
        "model": {"builder": "mlp"},
        "dataset": {"builder": "data", "params": {"kind": kind}},
        "fit": {"epochs": 1, "batch_size": 32},
    }
    failed = supervisor.fail(spec, code=sources)
    assert (failed["code"], words in failed["message"]) == (code, True), failed


def test_two_folders_with_modules_of_the_same_name_do_not_collide(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    for name, units in (("left", 3), ("right", 5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "parts.py").write_text(f"UNITS = {units}\n")
        (folder / "model.py").write_text(
            "import keras\nfrom .parts import UNITS\n"
            "def build_model(params):\n    return keras.Sequential([keras.layers.Dense(UNITS, 'softmax')])\n"
            "def make_dataset(params):\n    import numpy as np\n"
            "    return np.ones((40, 2)) * np.arange(40)[:, None], np.arange(40) % UNITS\n"
        )
    spec = {
        "model": {"builder": "right"},
        "dataset": {"builder": "left"},
        "fit": {"epochs": 1, "batch_size": 8},
        "tensorboard": SCALARS_ALONE,
    }
    job = supervisor.run(spec, code=code_of(tmp_path, "left", "right"))
    assert job.noted()["data"]["classes"] == 3
    assert job.noted()["model"]["parameters"] == 2 * 5 + 5


def test_weights_of_rows_count_in_the_loss_of_training(supervisor: Supervisor, tmp_path: Path) -> None:
    source = """
        import numpy as np

        def make_dataset(weighted):
            rng = np.random.default_rng(0)
            x = rng.normal(size=(200, 4)).astype("float32")
            y = (x[:, 0] > 0).astype("int64")
            x[100:], wrong = x[100:], y.copy()
            wrong[100:] = 1 - y[100:]  # half of the rows say the opposite
            if not weighted:
                return (x[:100], y[:100]), None, (x, y)
            weights = np.where(np.arange(200) < 100, 2.0, 0.0)
            return (x, wrong, weights), None, (x, y)
    """
    code = written(tmp_path, "weighed", source)
    spec = {
        "model": {"builder": "mlp", "params": {"units": 8}},
        "dataset": {"builder": "weighed", "params": {"weighted": True}, "shuffle": False},
        "fit": {"epochs": 60, "batch_size": 100, "learning_rate": 0.02},
        "tensorboard": SCALARS_ALONE,
    }
    job = supervisor.run(spec, code=code)
    assert job.last["metrics"]["test_accuracy"] > 0.95, "rows of weight 0 teach nothing"
    assert job.noted()["data"]["rows"]["train"] == 200
    held = changed(spec, dataset={"validation_split": 0.3}, fit={"epochs": 1, "batch_size": 70})
    assert supervisor.run(held, code=code, run="held").noted()["data"]["rows"]["train"] == 140


def test_a_program_that_their_code_left_running_ends_with_the_job(
    supervisor: Supervisor, tmp_path: Path, digits: Path
) -> None:
    code = written(
        tmp_path,
        "leaves",
        """
        import subprocess
        import keras

        def build_model(params):
            left = subprocess.Popen(["sleep", "300"])
            print(f"left {left.pid} running", flush=True)
            return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
        """,
    )
    job = supervisor.run({**DIGITS_JOB, "model": {"builder": "leaves"}}, code=code, data=digits)
    left = int((job.run_dir / "job.log").read_text().split("left ")[1].split()[0])
    job.trainer.close()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{left}").exists() and "\nState:\tZ" not in Path(f"/proc/{left}/status").read_text():
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.02)
