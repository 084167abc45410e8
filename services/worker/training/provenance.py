"""What a result may depend on beside the job itself: versions, this program, the machine, the runtime's options.

Read once when this module is loaded (the preloader does that), so that it costs a job's start nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorboard
import tensorflow as tf

from shared.specs import TrainJob
from shared.user_code import content_hash

_ROOT = Path(__file__).parents[3]
_PACKAGES = ("services", "shared")  # what takes part in training
# of all that TensorFlow and its libraries read, what changes numbers
_VARIABLES = """TF_ENABLE_ONEDNN_OPTS TF_XLA_FLAGS XLA_FLAGS TF_DETERMINISTIC_OPS OMP_NUM_THREADS
NVIDIA_TF32_OVERRIDE DNNL_MAX_CPU_ISA TF_NUM_INTEROP_THREADS TF_NUM_INTRAOP_THREADS""".split()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _program() -> dict[str, Any]:
    """This program: the hash of its files, and the git commit where it runs from a checkout."""
    total = hashlib.sha256()
    for name in _PACKAGES:
        total.update(f"{name} {content_hash(_ROOT / name)}\n".encode())
    return {"sha256": total.hexdigest(), "commit": _commit()}


def _commit() -> str | None:
    """HEAD as git's files have it; None outside a checkout."""
    try:
        git = _ROOT / ".git"
        if git.is_file():  # a worktree's is a pointer
            git = (_ROOT / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        common = git / "commondir"
        for folder in (git, (git / common.read_text().strip()).resolve() if common.is_file() else git):
            if (folder / name).is_file():
                return (folder / name).read_text().strip()
            packed = folder / "packed-refs"
            lines = packed.read_text().splitlines() if packed.is_file() else []
            found = next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)
            if found is not None:
                return found
    except (OSError, IndexError):
        pass
    return None


def _machine() -> dict[str, Any]:
    model = None
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {"architecture": platform.machine(), "cpu": model, "cores": len(os.sched_getaffinity(0))}


VERSIONS: dict[str, str | None] = {
    "python": platform.python_version(),
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "numpy": np.__version__,
    "tensorboard": tensorboard.__version__,
    "modelyard": _version("modelyard"),
}
PROGRAM = _program()
MACHINE = _machine()


def facts(job: TrainJob) -> dict[str, Any]:
    """Members of the job's ``run``. Call it once the runtime is set up."""
    return {
        "versions": VERSIONS,
        "program": PROGRAM,
        "machine": MACHINE,
        "options": {
            "seed": job.fit.seed,
            "deterministic": job.fit.deterministic,
            "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
            "dtype_policy": keras.config.dtype_policy().name,
            "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        },
    }


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over the bytes of all weights: equal only where every bit is."""
    total = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight.numpy())
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.reshape(-1).view(np.uint8).data)  # bytes: NumPy gives no view of bfloat16
    return f"sha256:{total.hexdigest()}"
