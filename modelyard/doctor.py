"""Looks at this machine and at the running platform, if there is one. Never loads TensorFlow into this process."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from modelyard.client import Client
from modelyard.devices import describe_device
from modelyard.launcher import broker
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.guard import check_address, low_disk, prepare_home
from modelyard.launcher.options import load_settings
from modelyard.launcher.state import read_state
from shared.errors import ModelyardError
from shared.settings import Settings

DEVICES_SECONDS = 120.0
_INSTALL = "Get it with: pip install 'modelyard[local,cpu]', or make demo in a clone."
# What `modelyard up` needs, by distribution; the first of a tuple that is installed counts.
_NEEDED = (
    ("tensorflow", "tensorflow-cpu"),
    ("keras",),
    ("tensorflow-datasets",),
    ("tensorboard",),
    ("fastapi",),
    ("celery",),
    ("sqlalchemy",),
    ("filelock",),
)
# the worker's own probe, in a process of its own
_PROBE = "import os; from services.worker.training.probe import report; report(os.dup(1))"


class Finding(BaseModel):
    """One thing that was looked at."""

    check: str
    status: Literal["ok", "warn", "bad", "info"]
    found: str
    hint: str | None = None


def examine(*, home: Path | None = None, url: str | None = None) -> list[Finding]:
    """All findings, in the order a person wants to read them."""
    try:
        settings = load_settings(home=home)
    except LaunchError as error:
        return [Finding(check="settings", status="bad", found=error.message, hint=error.hint)]
    return [
        *_python(),
        *_packages(),
        *_devices(),
        *_broker(settings),
        *_home(settings),
        *_platform(settings, url),
    ]


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        check="python",
        status="ok" if good else "bad",
        found=f"{version} ({sys.executable})",
        hint=None if good else "Modelyard needs Python 3.11, 3.12 or 3.13.",
    )
    yield Finding(check="system", status="info", found=f"{platform.platform()}, {_cpus()} CPUs")


def _cpus() -> int:
    return os.cpu_count() or 1


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def _packages() -> Iterator[Finding]:
    found = [(names, _version(*names)) for names in (("modelyard",), *_NEEDED)]
    present = ", ".join(version for _, version in found if version)
    yield Finding(check="packages", status="ok", found=present)
    missing = [names[0] for names, version in found if version is None]
    if missing:
        yield Finding(
            check="packages",
            status="warn",
            found=f"missing: {', '.join(missing)}; this installation can talk to a platform, but not run one",
            hint=_INSTALL,
        )


def _devices() -> Iterator[Finding]:
    if _version("tensorflow", "tensorflow-cpu") is None:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=DEVICES_SECONDS,
            check=False,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        report = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        yield Finding(
            check="devices",
            status="bad",
            found="TensorFlow is installed but does not load",
            hint=f"See why: {sys.executable} -c 'import tensorflow'",
        )
        return
    yield Finding(check="tensorflow", status="ok", found=_build(report))
    cpu = report["cpu"]
    features = " ".join(cpu["features"]) or "no vector instructions known"
    yield Finding(
        check="cpu", status="info", found=f"{cpu['model'] or 'unknown'}, {cpu['cores']} usable, {features}"
    )
    yield Finding(check="devices", status="ok", found=", ".join(map(describe_device, report["devices"])))
    logical = ", ".join(device["name"] for device in report["logical_devices"])
    yield Finding(check="logical devices", status="info", found=logical)
    has_gpu = any(device["type"] == "GPU" for device in report["devices"])
    if not has_gpu and shutil.which("nvidia-smi"):
        hint = (
            "Compare the driver with what TensorFlow needs: nvidia-smi."
            if report["built_with_cuda"]
            else "This TensorFlow is built for CPUs: pip install 'modelyard[local,gpu]' in a new environment."
        )
        yield Finding(
            check="devices", status="warn", found="there is a GPU that TensorFlow does not see", hint=hint
        )


def _build(report: dict[str, Any]) -> str:
    build = report["build"]
    parts = [f"{report['versions']['tensorflow']}, Keras {report['versions']['keras']}"]
    cuda = f"CUDA {build.get('cuda_version', '')}".strip()
    parts.append(
        f"built with {cuda}, cuDNN {build.get('cudnn_version', '?')}"
        if build["cuda"]
        else "built without CUDA"
    )
    parts += [
        f"{'with' if build[key] else 'without'} {name}" for key, name in (("xla", "XLA"), ("rocm", "ROCm"))
    ]
    return ", ".join(parts)


def _broker(settings: Settings) -> Iterator[Finding]:
    if "broker_url" in settings.model_fields_set:
        yield Finding(check="broker", status="info", found="your own, by MODELYARD_BROKER_URL")
        return
    try:
        yield Finding(check="broker", status="ok", found=str(broker.binary()))
    except LaunchError as error:
        yield Finding(check="broker", status="warn", found=error.message, hint=error.hint)


def _home(settings: Settings) -> Iterator[Finding]:
    root = settings.paths.root
    if not root.exists():
        yield Finding(check="home", status="info", found=f"{root} (not made yet)")
        root = next(parent for parent in root.parents if parent.exists())
    else:
        try:
            prepare_home(settings.paths)
        except LaunchError as error:
            yield Finding(check="home", status="bad", found=error.message, hint=error.hint)
            return
        yield Finding(check="home", status="ok", found=str(root))
    free = shutil.disk_usage(root).free / 1e9
    low = low_disk(settings.paths) if settings.paths.root.exists() else None
    yield Finding(
        check="disk",
        status="warn" if low else "ok",
        found=f"{free:.1f} GB free",
        hint="Old runs and <home>/cache can be deleted." if low else None,
    )


def _platform(settings: Settings, url: str | None) -> Iterator[Finding]:
    state = read_state(settings.paths)
    if url is None and state is not None:
        url = state.url
    with Client(url, timeout=5.0) as client:
        try:
            health = client.ready()
            workers = client.workers().items
        except ModelyardError as error:
            running = state is not None
            yield Finding(
                check="platform", status="bad" if running else "info", found=error.message, hint=error.hint
            )
            if not running:
                yield from _port(settings)
            return
    good = health.status == "ok"
    yield Finding(
        check="platform",
        status="ok" if good else "bad",
        found=f"{client.url}: {health.status}, {health.version}",
    )
    for name, check in health.checks.items():
        if not check.get("ok"):
            yield Finding(check=f"platform {name}", status="bad", found=str(check.get("error")))
    alive = [worker for worker in workers if worker.alive]
    slots = sum(worker.slots for worker in alive)
    yield Finding(
        check="workers", status="ok" if alive else "bad", found=f"{len(alive)} alive, {slots} slots"
    )
    for worker in alive:
        found = ", ".join(map(describe_device, worker.info.get("devices") or ())) or "has not looked yet"
        yield Finding(check=f"worker {worker.id}", status="info", found=found)


def _port(settings: Settings) -> Iterator[Finding]:
    where = f"{settings.host}:{settings.port}"
    try:
        check_address(settings.host, settings.port)
        yield Finding(check="port", status="ok", found=f"{where} is free")
    except LaunchError as error:
        yield Finding(check="port", status="warn", found=error.message, hint=error.hint)
