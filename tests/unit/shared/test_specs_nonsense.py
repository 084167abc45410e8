"""Nonsense at any place of any job is refused in words, never by a stray error of Python's."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from shared.specs import parse_job

JOBS: dict[str, dict[str, Any]] = {
    "everything": {
        "kind": "train",
        "model": {"builder": "mlp", "params": {"units": [8]}},
        "dataset": {"tfds": "mnist"},
        "fit": {
            "epochs": 1,
            "callbacks": [{"name": "EarlyStopping", "params": {"monitor": "val_loss"}}],
            "learning_rate": {"class_name": "ExponentialDecay", "config": {}},
            "class_weight": {"0": 1},
        },
        "strategy": {"kind": "mirrored", "devices": ["CPU:0"]},
        "devices": {"virtual_devices": 2, "visible": ["CPU:0"]},
        "checkpoint": {"every": "30s", "best": {"monitor": "val_loss"}},
        "publish": {"model": "m", "label": "x"},
        "retry": {"on": ["oom_host"]},
        "deadline": {"run_seconds": 3},
        "tensorboard": {"profile": [1, 2]},
        "labels": {"a": "b"},
    },
    "images": {
        "model": {"from_version": {"model": "m", "version": 1}, "freeze": ["a*"]},
        "dataset": {"images": "/x", "image_size": [8, 8]},
    },
    "tfrecord": {
        "model": {"from_file": "ds_x", "new_head": True},
        "dataset": {
            "tfrecord": "/x",
            "features": {"image": {"dtype": "string", "decode": "image"}, "label": {"dtype": "int64"}},
            "label": "label",
            "augment": [{"name": "RandomFlip", "params": {}}],
        },
    },
    "csv": {
        "model": {"keras_config": {"class_name": "Sequential", "config": {"layers": []}}},
        "dataset": {"csv": "/x", "label": "y", "columns": {"a": {"kind": "category"}}},
    },
    "export": {
        "kind": "export",
        "from": {"job": "job_x", "checkpoint": "best"},
        "formats": ["keras", {"format": "tflite", "quantization": "int8"}],
        "publish": {"model": "m"},
    },
}
NONSENSE: tuple[Any, ...] = (
    None, [], {}, "", 0, -1, 1e308, True, "x" * 300, [[]], [{}], {"a": []}, "\ud800", 10**30, [None], "../..",
    {"kind": []}, {"name": []}, {"name": {}}, {"builder": []},
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _with(job: dict[str, Any], path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(job)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_nonsense_anywhere_is_a_value_error_or_a_job(job: dict[str, Any]) -> None:
    for path in _places(job):
        for value in NONSENSE:
            for place in (
                (path, (*path[:-1], "unknown_field")) if path and isinstance(path[-1], str) else (path,)
            ):
                try:
                    parse_job(_with(job, place, value))
                except ValueError:
                    continue
                except Exception as error:
                    raise AssertionError(f"{value!r} at {place}: {error!r}") from error
