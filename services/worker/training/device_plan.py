"""What a job's device options come to on the machine at hand. Knows no TensorFlow: ``devices`` finds and applies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from services.worker.training.failures import TrainingFailed
from shared.specs import DeviceSpec
from shared.specs.devices import Precision


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is. Tuples are by GPU, None where it can't be told; ``fast_bfloat16``: the CPU computes in it."""

    gpus: int
    cores: int
    built_with_cuda: bool
    gpu_memory_mb: tuple[int | None, ...] = ()
    capabilities: tuple[tuple[int, int] | None, ...] = ()
    fast_bfloat16: bool = True

    @property
    def names(self) -> list[str]:
        """Physical devices as a spec names them."""
        return ["CPU:0", *(f"GPU:{index}" for index in range(self.gpus))]

    def why_no_gpu(self) -> str:
        """What to do about a GPU that is missing."""
        if not self.built_with_cuda:
            return "This TensorFlow is built without CUDA: install modelyard[local,gpu] on the worker."
        return "TensorFlow is built with CUDA but found no such GPU: run nvidia-smi on the worker, and see its log."


@dataclass(slots=True)
class Plan:
    """What to set before TensorFlow's context starts.

    Attributes:
        gpus: indices of the visible GPUs.
        growth: memory growth of each visible GPU; None leaves it alone.
        limits: memory limits in MB of the logical devices of each visible GPU, by GPU; empty: not split.
        logical_cpus: how many logical devices the CPU is split into.
        warnings: (code, sentence) for each option that does not do here what it says.
    """

    gpus: list[int]
    growth: bool | None = None
    limits: dict[int, list[int]] = field(default_factory=dict)
    logical_cpus: int = 1
    warnings: list[tuple[str, str]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """GPU or CPU: where the model is trained."""
        return "GPU" if self.gpus else "CPU"


def make(spec: DeviceSpec, machine: Machine) -> Plan:
    """Decide.

    Raises:
        TrainingFailed: device_unavailable when a device is named that is not there, device_invalid when one can't be
            split as asked.
    """
    plan = Plan(_visible_gpus(spec, machine))
    if plan.gpus:
        _on_gpus(spec, machine, plan)
    else:
        _on_cpu(spec, plan)
    plan.warnings += [(code, text) for code, text in _doubts(spec.mixed_precision, machine, plan)]
    return plan


def _doubts(precision: Precision, machine: Machine, plan: Plan) -> Iterator[tuple[str, str]]:
    if precision == "mixed_float16" and not plan.gpus:
        yield (
            "float16_on_cpu",
            "mixed_float16 is emulated on a CPU and slower than float32 there; it gains on GPUs of compute "
            "capability 7.0 and up. Some CPUs compute in bfloat16: mixed_bfloat16.",
        )
    if "bfloat16" in precision and not plan.gpus and not machine.fast_bfloat16:
        yield (
            "bfloat16_on_cpu",
            f"{precision} is emulated on this CPU, which has neither AVX512_BF16 nor AMX, and slower than float32.",
        )
    wanted = (7, 0) if precision == "mixed_float16" else (8, 0)
    for gpu in plan.gpus if precision != "float32" else ():
        has = machine.capabilities[gpu] if gpu < len(machine.capabilities) else None
        if has is not None and has < wanted:
            yield (
                "precision_on_old_gpu",
                f"{precision} gains nothing on GPU:{gpu} of compute capability {has[0]}.{has[1]}: it takes "
                f"{wanted[0]}.{wanted[1]}.",
            )


def _visible_gpus(spec: DeviceSpec, machine: Machine) -> list[int]:
    if spec.visible is None:
        return list(range(machine.gpus))
    missing = [name for name in spec.visible if name not in machine.names]
    if missing:
        raise TrainingFailed(
            "device_unavailable",
            f"devices.visible names {', '.join(missing)}, but this worker has {', '.join(machine.names)}",
            machine.why_no_gpu()
            if not machine.gpus
            else "Name devices from that list; GET /workers shows them.",
        )
    return sorted(int(name.partition(":")[2]) for name in spec.visible if name.startswith("GPU"))


def _on_gpus(spec: DeviceSpec, machine: Machine, plan: Plan) -> None:
    wanted = spec.virtual_devices
    for gpu in plan.gpus:
        if isinstance(wanted, list):
            plan.limits[gpu] = list(wanted)
        elif wanted is not None and wanted > 1:
            plan.limits[gpu] = [spec.memory_limit_mb or _share(gpu, wanted, machine)] * wanted
        elif spec.memory_limit_mb is not None:
            plan.limits[gpu] = [spec.memory_limit_mb]
    if not plan.limits:
        plan.growth = True if spec.memory_growth is None else spec.memory_growth
    elif spec.memory_growth:
        plan.warnings.append(
            (
                "memory_growth_ignored",
                "memory_growth does not apply: each virtual GPU takes its share at once.",
            )
        )


def _share(gpu: int, parts: int, machine: Machine) -> int:
    total = machine.gpu_memory_mb[gpu] if gpu < len(machine.gpu_memory_mb) else None
    if total is None:
        raise TrainingFailed(
            "device_invalid",
            f"GPU:{gpu} can't be split into {parts}: its memory is not known, and each part needs a limit",
            "Name the limits, as in virtual_devices: [1024, 1024], or set memory_limit_mb.",
        )
    return max(1, int(total * 0.9) // parts)  # the driver and CUDA's own context need the rest


def _on_cpu(spec: DeviceSpec, plan: Plan) -> None:
    wanted = spec.virtual_devices
    plan.logical_cpus = len(wanted) if isinstance(wanted, list) else (wanted or 1)
    asked = [
        ("memory_growth", spec.memory_growth is not None),
        ("memory_limit_mb", spec.memory_limit_mb is not None),
        ("memory limits of virtual_devices", isinstance(wanted, list)),
    ]
    for name, given in asked:
        if given:
            plan.warnings.append(
                (
                    "no_gpu",
                    f"{name} does nothing here: no GPU on this worker, and CPU devices share its memory.",
                )
            )
