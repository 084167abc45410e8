"""What device options come to on machines with and without GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from services.worker.training import device_plan
from services.worker.training.device_plan import Machine, Plan
from services.worker.training.failures import TrainingFailed
from shared.specs import DeviceSpec, parse_job

CPU = Machine(gpus=0, cores=2, built_with_cuda=False)
TWO_GPUS = Machine(gpus=2, cores=8, built_with_cuda=True, gpu_memory_mb=(16_000, 8_000))


def plan(machine: Machine, **options: Any) -> Plan:
    return device_plan.make(DeviceSpec.model_validate(options), machine)


def codes(found: Plan) -> list[str]:
    return [code for code, _ in found.warnings]


def test_nothing_asked_on_a_cpu() -> None:
    found = plan(CPU)
    assert (found.kind, found.logical_cpus, found.growth, found.warnings) == ("CPU", 1, None, [])


def test_nothing_asked_on_gpus_takes_memory_as_needed() -> None:
    found = plan(TWO_GPUS)
    assert (found.kind, found.gpus, found.growth, found.limits) == ("GPU", [0, 1], True, {})
    assert plan(TWO_GPUS, memory_growth=False).growth is False


def test_a_cpu_is_split() -> None:
    assert plan(CPU, virtual_devices=2).logical_cpus == 2
    found = plan(CPU, virtual_devices=[1024, 1024])
    assert (found.logical_cpus, codes(found)) == (2, ["no_gpu"])
    assert "no GPU on this worker" in found.warnings[0][1]


@pytest.mark.parametrize(
    "options", [{"memory_growth": True}, {"memory_growth": False}, {"memory_limit_mb": 512}]
)
def test_gpu_memory_options_on_a_cpu_are_told(options: dict[str, Any]) -> None:
    found = plan(CPU, **options)
    assert codes(found) == ["no_gpu"]
    assert found.warnings[0][1].startswith(next(iter(options)))


def test_gpus_are_split_by_limit_by_list_and_by_share() -> None:
    assert plan(TWO_GPUS, memory_limit_mb=2048).limits == {0: [2048], 1: [2048]}
    found = plan(TWO_GPUS, virtual_devices=[1024, 512], visible=["GPU:1"])
    assert (found.gpus, found.limits, found.growth, found.logical_cpus) == ([1], {1: [1024, 512]}, None, 1)
    assert plan(TWO_GPUS, virtual_devices=2, memory_limit_mb=1000).limits[0] == [1000, 1000]
    assert plan(TWO_GPUS, virtual_devices=2).limits == {0: [7200, 7200], 1: [3600, 3600]}


def test_a_gpu_of_unknown_memory_needs_limits() -> None:
    unknown = Machine(gpus=1, cores=8, built_with_cuda=True)
    with pytest.raises(TrainingFailed, match="its memory is not known") as caught:
        plan(unknown, virtual_devices=2)
    assert caught.value.code == "device_invalid"
    assert "1024" in str(caught.value.hint)


@pytest.mark.parametrize(("cuda", "says"), [(False, "built without CUDA"), (True, "nvidia-smi")])
def test_a_gpu_that_is_not_there(cuda: bool, says: str) -> None:
    machine = Machine(gpus=0, cores=2, built_with_cuda=cuda)
    with pytest.raises(TrainingFailed, match=r"GPU:0.* has CPU:0") as caught:
        plan(machine, visible=["GPU:0"])
    assert caught.value.code == "device_unavailable"
    assert says in str(caught.value.hint)


def test_a_gpu_beyond_those_there_are() -> None:
    with pytest.raises(TrainingFailed, match=r"GPU:2.* has CPU:0, GPU:0, GPU:1") as caught:
        plan(TWO_GPUS, visible=["GPU:0", "GPU:2"])
    assert "GET /workers" in str(caught.value.hint)


def test_the_cpu_alone_hides_gpus() -> None:
    found = plan(TWO_GPUS, visible=["CPU:0"], virtual_devices=2)
    assert (found.gpus, found.kind, found.logical_cpus, found.limits) == ([], "CPU", 2, {})


def test_precision_that_gains_nothing_is_told() -> None:
    old = Machine(gpus=2, cores=8, built_with_cuda=True, capabilities=((6, 1), (8, 9)))
    found = plan(old, mixed_precision="mixed_float16")
    assert codes(found) == ["precision_on_old_gpu"]
    assert "GPU:0 of compute capability 6.1" in found.warnings[0][1]
    assert codes(plan(old, mixed_precision="mixed_float16", visible=["GPU:1"])) == []
    slow = Machine(gpus=0, cores=2, built_with_cuda=False, fast_bfloat16=False)
    assert codes(plan(slow, mixed_precision="mixed_bfloat16")) == ["bfloat16_on_cpu"]
    assert codes(plan(CPU, mixed_precision="mixed_bfloat16")) == []


def test_float16_without_a_gpu_is_told() -> None:
    assert codes(plan(CPU, mixed_precision="mixed_float16")) == ["float16_on_cpu"]
    assert codes(plan(TWO_GPUS, mixed_precision="mixed_float16")) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory_growth": True, "memory_limit_mb": 100}, "exclude each other"),
        ({"memory_growth": True, "virtual_devices": [100]}, "exclude each other"),
        ({"memory_limit_mb": 100, "virtual_devices": [100]}, "leave memory_limit_mb out"),
        ({"visible": ["CPU:0"], "memory_limit_mb": 100}, "CPU alone"),
        ({"visible": ["GPU:0", "GPU:0"]}, "named twice"),
        ({"visible": ["CPU:1"]}, "match pattern"),
        ({"visible": ["gpu0"]}, "match pattern"),
        ({"visible": []}, "at least 1"),
        ({"virtual_devices": []}, "1 to 64"),
        ({"virtual_devices": 0}, "greater than or equal"),
        ({"mixed_precision": "float8"}, "mixed_float16"),
        ({"xla": "yes please"}, "auto"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DeviceSpec.model_validate(options)


@pytest.mark.parametrize("fit", [{}, {"optimizer": "AdamW"}])
def test_bfloat16_refuses_optimizers_that_can_not_learn_in_it(fit: dict[str, Any]) -> None:
    job = {
        "model": {"builder": "mlp"},
        "dataset": {"tfds": "mnist"},
        "devices": {"mixed_precision": "bfloat16"},
    }
    with pytest.raises(ValueError, match="Use 'mixed_bfloat16', or the optimizer SGD"):
        parse_job({**job, "fit": fit})
    parse_job({**job, "fit": {"optimizer": "sgd"}})
