"""Resident and unique memory of each process of an idle platform, and of a training one."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from benchmarks.data import FASHION, prepared_home
from benchmarks.running import platform
from benchmarks.table import Row, Table, mebibytes

_NAMES = (
    ("services.api", "API"),
    ("services.worker", "worker"),
    ("services.serving", "model server"),
    ("services.tensorboard", "TensorBoard"),
    ("valkey-server", "broker"),
    ("resource_tracker", "resource tracker"),
    ("modelyard", "launcher"),
)


def name_of(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if "forkserver" in command:
        parent = process.parent()
        forked = parent is not None and "forkserver" in " ".join(parent.cmdline())
        return "trainer" if forked else "preloader"
    return next((name for part, name in _NAMES if part in command), command[:40])


def snapshot(launcher: psutil.Process) -> dict[str, tuple[int, int]]:
    """(resident, unique) bytes by process."""
    found = {}
    for process in [launcher, *launcher.children(recursive=True)]:
        info = process.memory_full_info()
        found[name_of(process)] = (info.rss, info.uss)
    return found


def run(scratch: Path) -> Table:
    with platform(prepared_home(scratch)) as running:
        launcher = psutil.Process(running.launcher.pid)
        client = running.client()
        job = client.jobs.submit({**FASHION, "fit": {"epochs": 1}, "publish": {"model": "fashion"}})
        time.sleep(2)
        idle_before = snapshot(launcher)
        job.wait(timeout=120)
        second = client.jobs.submit({**FASHION, "fit": {"epochs": 30}})
        while second.refresh().view.stage != "training":
            time.sleep(0.1)
        time.sleep(3)
        training = snapshot(launcher)
        second.cancel().wait(timeout=60, check=False)
        time.sleep(3)
        idle = snapshot(launcher)
    rows = [
        Row(
            name,
            mebibytes(idle[name][0]) if name in idle else "-",
            mebibytes(idle[name][1]) if name in idle else "-",
            mebibytes(training[name][1]) if name in training else "-",
        )
        for name in sorted({*idle, *training, *idle_before} - {""})
        if name in idle or name in training
    ]
    total = Row(
        "all",
        "",
        mebibytes(sum(unique for _, unique in idle.values())),
        mebibytes(sum(unique for _, unique in training.values())),
    )
    return Table(
        "Memory",
        "After one job was trained and published. Unique memory is what would be freed if the process ended; processes "
        "share the rest, such as TensorFlow's code.",
        ("process", "idle, resident", "idle, unique", "while training, unique"),
        [*rows, total],
    )
