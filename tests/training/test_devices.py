"""Device options in real jobs: what TensorFlow then has, and what the job says about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from services.worker.training import devices, precision
from services.worker.training.device_plan import Plan
from shared.specs import DeviceSpec
from tests.training.conftest import SCALARS_ALONE, Supervisor


def spec(options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "model": {"builder": "mlp", "params": {"units": [16]}},
        "dataset": {"npz": "ds_digits"},
        "fit": {"epochs": 1, "batch_size": 100},
        "tensorboard": SCALARS_ALONE,
        "devices": options,
        **changes,
    }


def warnings(job: Any) -> list[str]:
    return [event["code"] for event in job.of("warning")]


def test_the_cpu_is_split_into_logical_devices(supervisor: Supervisor, digits: Path) -> None:
    job = supervisor.run(spec({"virtual_devices": [1024, 1024]}), data=digits)
    found = job.noted()["devices"]
    assert [device["name"] for device in found["logical"]] == ["CPU:0", "CPU:1"]
    assert [device["name"] for device in found["physical"]] == ["CPU:0"]
    assert found["requested"] == {"virtual_devices": [1024, 1024]}
    assert warnings(job) == ["no_gpu", "virtual_devices_idle"]


def test_a_gpu_that_is_not_there_fails_in_words(supervisor: Supervisor, digits: Path) -> None:
    failed = supervisor.fail(spec({"visible": ["GPU:0"]}), data=digits)
    assert failed["code"] == "device_unavailable"
    assert "CPU:0" in failed["message"]


def test_options_that_apply_do_and_those_that_do_not_are_told(supervisor: Supervisor, digits: Path) -> None:
    options = {
        "memory_growth": True,
        "soft_placement": False,
        "log_placement": True,
        "intra_op_threads": 2,
        "inter_op_threads": 3,
        "xla": True,
    }
    job = supervisor.run(spec(options), data=digits)
    found = job.noted()["devices"]
    assert (found["intra_op_threads"], found["inter_op_threads"], found["soft_placement"]) == (2, 3, False)
    assert warnings(job) == ["no_gpu", "xla_on_cpu"]
    log = (job.run_dir / "job.log").read_text()
    assert "MatMul" in log, "placement is logged by C++, to fd 1 and 2"
    assert "/device:CPU:0" in log


def test_replicas_on_logical_cpus_do_without_xla() -> None:
    model, told = model_from_json(), Told()
    model.compile(optimizer="sgd", loss="mse")
    for options, replicas, expected in (
        (DeviceSpec(xla=True), 2, False),
        (DeviceSpec(xla=True), 1, True),
        (DeviceSpec(xla=False), 1, False),
        (DeviceSpec(), 1, False),
    ):
        devices.settle_xla(model, options, Plan(gpus=[]), replicas, told)  # type: ignore[arg-type]
        assert model.jit_compile is expected
    assert told.codes == ["xla_off", "xla_on_cpu"]


@pytest.mark.parametrize(("policy", "optimizer"), [("mixed_float16", "adam"), ("bfloat16", "sgd")])
def test_precision_is_the_models_and_outputs_stay_float32(
    supervisor: Supervisor, digits: Path, policy: str, optimizer: str
) -> None:
    fit: dict[str, Any] = {"epochs": 5, "batch_size": 25, "optimizer": optimizer}
    fit["learning_rate"] = 0.5 if optimizer == "sgd" else 0.005
    request = spec({"mixed_precision": policy}, fit=fit)
    job = supervisor.run(request, data=digits)
    facts = job.noted()
    assert facts["devices"]["precision"] == policy
    assert facts["model"]["optimizer"].lower() == optimizer
    assert job.last["metrics"]["test_accuracy"] > 0.6
    outputs = job.last["signatures"]["serving_default"]["outputs"]
    assert {output["dtype"] for output in outputs.values()} == {"float32"}
    model = keras.saving.load_model(next(job.run_dir.rglob("model.keras")))
    assert {layer.name: layer.compute_dtype for layer in model.layers if layer.weights} == {
        "d1": policy.removeprefix("mixed_"), "probabilities": "float32",
    }  # fmt: skip
    if policy == "mixed_float16":  # the loss' scale is state that goes on; the other has none of its own
        fit["epochs"] = 6
        again = supervisor.run(request, data=digits, attempt=2)
        assert again.noted()["resumed_from"]["epoch"] == 5


def test_replicas_on_logical_cpus_train_in_half_precision_and_without_xla(
    supervisor: Supervisor, digits: Path
) -> None:
    request = spec(
        {"virtual_devices": 2, "xla": True, "mixed_precision": "mixed_float16"},
        strategy={"kind": "mirrored"},
        fit={"epochs": 3, "batch_size": 25, "learning_rate": 0.005},
    )
    job = supervisor.run(request, data=digits)
    assert warnings(job) == ["float16_on_cpu", "xla_off"]
    assert job.noted()["replicas"] == 2
    assert job.last["metrics"]["test_accuracy"] > 0.6


def model_from_json() -> keras.Model:
    """Architectures in JSON name float32 for every layer."""
    model = keras.Sequential(
        [
            keras.Input((4, 2)),
            keras.layers.Rescaling(0.001),
            keras.layers.Bidirectional(keras.layers.LSTM(3)),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    read = keras.models.model_from_json(model.to_json())
    assert isinstance(read, keras.Model)
    return read


class Told:
    """Takes warnings."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def warn(self, code: str, message: str) -> None:
        assert message
        self.codes.append(code)


def test_the_policy_reaches_layers_that_name_float32_but_not_ends() -> None:
    model, told = model_from_json(), Told()
    precision.settle(model, "mixed_float16", told)  # type: ignore[arg-type]
    scale, recurrent, last = model.layers
    assert (scale.compute_dtype, recurrent.compute_dtype, last.compute_dtype) == (
        "float32",
        "float16",
        "float32",
    )
    assert recurrent.forward_layer.cell.compute_dtype == "float16"
    assert {weight.dtype for weight in model.weights if "seed" not in weight.name} == {"float32"}
    # 70,000 is beyond float16, but it is scaled before it gets there
    answer = model(np.full((1, 4, 2), 70_000.0, np.float32))
    assert answer.dtype.name == "float32"
    assert np.isfinite(answer.numpy()).all()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert told.codes == []
    precision.settle(model_from_json(), "bfloat16", told)  # type: ignore[arg-type]
    assert told.codes == ["weights_stay_float32"]


class Gpu:
    """A physical device, as ``tf.config`` lists it."""

    device_type = "GPU"

    def __init__(self, index: int) -> None:
        self.name = f"/physical_device:GPU:{index}"


class TwoGpus(devices.Port):
    """TensorFlow on a machine with two GPUs; what needs them is noted."""

    def __init__(self, *, cuda: bool = True) -> None:
        self.done: list[Any] = []
        self.cuda = cuda
        self.gpus = [Gpu(0), Gpu(1)] if cuda else []

    def physical(self, kind: str) -> list[Any]:
        return self.gpus if kind == "GPU" else [*super().physical(kind)]

    def capability(self, device: Any) -> tuple[int, int] | None:
        return (6, 1)

    def built_with_cuda(self) -> bool:
        return self.cuda

    def gpu_memory_mb(self) -> tuple[int | None, ...]:
        return (16_000, 8_000)

    def show_only(self, gpus: list[Any]) -> None:
        self.done.append(("visible", [gpu.name[-5:] for gpu in gpus]))

    def grow(self, gpu: Any, enable: bool) -> None:
        self.done.append(("growth", gpu.name[-5:], enable))

    def split(self, device: Any, limits: Any) -> None:
        self.done.append(("split", device.name[-5:], list(limits)))

    def use_threads(self, *, intra: int | None, inter: int | None) -> None:
        self.done += [("threads", intra, inter)] if intra or inter else []


@pytest.mark.parametrize(
    ("options", "done"),
    [
        ({}, [("growth", "GPU:0", True), ("growth", "GPU:1", True)]),
        (
            {"memory_growth": False, "visible": ["GPU:1"]},
            [("visible", ["GPU:1"]), ("growth", "GPU:1", False)],
        ),
        ({"memory_limit_mb": 99}, [("split", "GPU:0", [99]), ("split", "GPU:1", [99])]),
        (
            {"visible": ["GPU:0"], "virtual_devices": [1024, 1024]},
            [("visible", ["GPU:0"]), ("split", "GPU:0", [1024, 1024])],
        ),
        ({"virtual_devices": 2}, [("split", "GPU:0", [7200, 7200]), ("split", "GPU:1", [3600, 3600])]),
        ({"visible": ["CPU:0"], "inter_op_threads": 2}, [("visible", []), ("threads", None, 2)]),
    ],
)
def test_gpus_are_set_up_with_cuda(options: dict[str, Any], done: list[Any]) -> None:
    port, told = TwoGpus(), Told()
    devices.apply(DeviceSpec.model_validate(options), told, port=port)  # type: ignore[arg-type]
    assert port.done == done
    assert told.codes == []


def test_nothing_of_gpus_is_touched_without_cuda() -> None:
    port, told = TwoGpus(cuda=False), Told()
    devices.apply(DeviceSpec(memory_growth=True), told, port=port)  # type: ignore[arg-type]
    assert told.codes == ["no_gpu"]
    assert [name for name, *_ in port.done if name != "threads"] == []


def test_an_old_gpu_gains_nothing_from_half_precision() -> None:
    told = Told()
    plan = devices.apply(DeviceSpec(mixed_precision="mixed_float16"), told, port=TwoGpus())  # type: ignore[arg-type]
    keras.mixed_precision.set_dtype_policy("float32")
    assert told.codes == ["precision_on_old_gpu"] * 2
    assert plan.kind == "GPU"
