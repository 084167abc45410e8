"""Rows on disk cost no memory that grows with them."""

from __future__ import annotations

import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.training.conftest import Job, Supervisor

SHAPE = (32, 32, 3)
MIB = 2**20
MODEL = keras.Sequential(
    [keras.Input(SHAPE), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation="softmax")]
).to_json()


def rows_file(path: Path, rows: int) -> Path:
    """An archive of random images, written a block at a time."""
    random = np.random.default_rng(0)
    block = random.integers(0, 255, (512, *SHAPE), dtype=np.uint8).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("x_train.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *SHAPE)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, rows, 512):
                file.write(block[: min(512, rows - start) * int(np.prod(SHAPE))])
        with archive.open("y_train.npy", "w") as file:
            np.save(file, random.integers(0, 2, rows).astype(np.int32))
    return path


def peak_mib(job: Job) -> float:
    """The most memory of its own that the job had at any time, in MiB (file pages are the system's)."""
    seen = [0.0]

    def watch() -> None:
        while job.trainer.poll() is None:
            try:
                status = Path(f"/proc/{job.trainer.pid}/status").read_text()
            except OSError:
                return
            values = [
                int(line.split()[1])
                for line in status.splitlines()
                if line.startswith(("RssAnon", "RssFile"))
            ]
            seen.append(sum(values) / 1024)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = job.finish(timeout=150)
    watcher.join()
    assert code == 0, job.tail()
    return max(seen)


@pytest.mark.slow
def test_ten_times_the_rows_take_no_more_memory(supervisor: Supervisor, tmp_path: Path) -> None:
    spec: dict[str, Any] = {
        "model": {"keras_config": MODEL, "preprocessing": "rescale"},
        "dataset": {"npz": "ds_x", "cache": False, "test_split": 0.5},
        "fit": {"epochs": 2, "batch_size": 256},
        "tensorboard": {"histogram_freq": 0, "write_graph": False, "sample_images": 0},
    }
    peaks = []
    for rows in (12_000, 120_000):  # 35 MiB and 352 MiB; the smaller one fills all buffers too
        data = rows_file(tmp_path / f"{rows}.npz", rows)
        job = supervisor.start(spec, data=data, data_sha256=f"{rows:064d}", run=str(rows))
        peaks.append(peak_mib(job))
        assert job.noted()["data"]["kept"] == "disk"
        data.unlink()
    growth = peaks[1] - peaks[0]
    # measured: 22 to 49 MiB, allocator and all
    assert growth < 0.25 * 316, f"{peaks} MiB: 316 MiB more rows took {growth:.0f} MiB more memory"
