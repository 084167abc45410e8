"""What TensorBoard's HParams page shows of a study, written from what the store knows and not by training.

A study's folder has the experiment: parameters with their domains, metrics. Each trial's folder below it has the
session: its parameters when it begins, how it ended when it has. So a trial that is killed, pruned or fails before
its first step has its row and its status too, and one that is taken up again has one row: each file is written once,
in one rename, under a name that training, which takes its own event files back to a checkpoint, does not know.

Curves, which the page's metrics are the last points of, are written by training in ``train``, ``validation`` and
``test`` below the trial's folder.

TensorFlow is not needed. TensorBoard's own records are loaded when the first one is written.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Sorted as they are written: TensorBoard's plain reader never goes back to an earlier name in one folder.
EXPERIMENT_FILE = "hparams.tfevents.0-experiment"
BEGUN_FILE = "hparams.tfevents.1-begun"
ENDED_FILE = "hparams.tfevents.2-ended"
OBJECTIVE_TAG = "objective"

Scalar = bool | float | int | str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One column: an interval of numbers, or the values that may be chosen."""

    name: str
    interval: tuple[float, float] | None = None
    choices: tuple[Any, ...] = ()

    @property
    def type(self) -> Literal["number", "bool", "text"]:
        """What all of its values are; several types in one column can only be shown as text."""
        if self.interval is not None:
            return "number"
        if self.choices and all(isinstance(value, bool) for value in self.choices):
            return "bool"
        numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in self.choices]
        return "number" if numbers and all(numbers) else "text"

    def shown(self, value: Any) -> Scalar:
        """A value as the page holds it."""
        if self.type == "bool" and isinstance(value, bool):
            return value
        if self.type == "number" and isinstance(value, int | float):
            return float(value)
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of results: the last point of ``tag`` in the run ``group`` below each trial's folder."""

    group: str
    tag: str
    name: str

    @classmethod
    def of(cls, metric: str) -> Metric:
        """Where training writes what a job calls ``metric``: ``val_accuracy``, ``test_loss``, ``accuracy``."""
        for prefix, group in (("val_", "validation"), ("test_", "test")):
            if metric.startswith(prefix):
                return cls(group, f"epoch_{metric.removeprefix(prefix)}", metric)
        return cls("train", f"epoch_{metric}", metric)

    @classmethod
    def objective(cls, metric: str) -> Metric:
        """Where ``trial_ended`` writes what a trial was judged by."""
        return cls("", f"{OBJECTIVE_TAG}/{metric}", f"objective: {metric}")


def write_experiment(
    folder: Path,
    *,
    name: str,
    about: str,
    parameters: Sequence[Parameter],
    metrics: Sequence[Metric],
    created_at: float,
) -> None:
    """Describe the study in its ``folder``. Times are seconds since the epoch. Written once."""
    if (folder / EXPERIMENT_FILE).exists():
        return
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    types = {
        "number": api_pb2.DATA_TYPE_FLOAT64,
        "bool": api_pb2.DATA_TYPE_BOOL,
        "text": api_pb2.DATA_TYPE_STRING,
    }
    experiment = api_pb2.Experiment(name=name, description=about, time_created_secs=created_at)
    for parameter in parameters:
        info = experiment.hparam_infos.add(name=parameter.name, type=types[parameter.type], differs=True)
        if parameter.interval is not None:
            info.domain_interval.min_value, info.domain_interval.max_value = parameter.interval
        else:
            info.domain_discrete.extend(dict.fromkeys(map(parameter.shown, parameter.choices)))
    for metric in metrics:
        kinds = {"train": api_pb2.DATASET_TRAINING, "validation": api_pb2.DATASET_VALIDATION}
        experiment.metric_infos.add(
            name=api_pb2.MetricName(group=metric.group, tag=metric.tag),
            display_name=metric.name,
            dataset_type=kinds.get(metric.group, api_pb2.DATASET_UNKNOWN),
        )
    data = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    _write(folder / EXPERIMENT_FILE, {metadata.EXPERIMENT_TAG: data}, created_at)


def trial_begun(
    folder: Path, *, name: str, parameters: Sequence[Parameter], values: Mapping[str, Any], at: float
) -> None:
    """The trial of ``folder`` has begun with ``values``, which lack what does not apply to it. Written once."""
    if (folder / BEGUN_FILE).exists():
        return
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(group_name=name, start_time_secs=at)
    for parameter in parameters:
        if parameter.name not in values:
            continue
        value = parameter.shown(values[parameter.name])
        cell = start.hparams[parameter.name]
        if isinstance(value, bool):
            cell.bool_value = value
        elif isinstance(value, str):
            cell.string_value = value
        else:
            cell.number_value = value
    data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
    _write(folder / BEGUN_FILE, {metadata.SESSION_START_INFO_TAG: data}, at)


def trial_ended(
    folder: Path, *, success: bool, at: float, judged: Mapping[str, float | None] | None = None
) -> None:
    """The trial of ``folder`` has ended. ``judged``: the objectives' values, None for one that is not a number.

    A pruned trial has ended well: the values that it had reached are its result. Written once.
    """
    if (folder / ENDED_FILE).exists():
        return
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    end = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE, end_time_secs=at
    )
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    points = {
        f"{OBJECTIVE_TAG}/{name}": value
        for name, value in (judged or {}).items()
        if value is not None and math.isfinite(value)
    }
    _write(folder / ENDED_FILE, {metadata.SESSION_END_INFO_TAG: data}, at, points)


def _write(
    target: Path, records: Mapping[str, Any], at: float, points: Mapping[str, float] | None = None
) -> None:
    """A whole event file, made visible by one rename."""
    from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.scalar.metadata import create_summary_metadata
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = [event_pb2.Event(wall_time=at, file_version="brain.Event:2")]
    for tag, data in records.items():
        value = summary_pb2.Summary.Value(
            tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
        )
        events.append(event_pb2.Event(wall_time=at, summary=summary_pb2.Summary(value=[value])))
    for tag, number in (points or {}).items():
        value = summary_pb2.Summary.Value(tag=tag, metadata=create_summary_metadata("", ""))
        value.tensor.dtype = types_pb2.DT_DOUBLE
        value.tensor.tensor_shape.SetInParent()  # a scalar
        value.tensor.double_val.append(number)
        events.append(event_pb2.Event(wall_time=at, summary=summary_pb2.Summary(value=[value])))
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    target.parent.mkdir(parents=True, exist_ok=True)
    # the part's name has no "tfevents" in it, by which TensorBoard knows files
    part = target.with_name(f".{target.name.rpartition('-')[2]}-{os.getpid()}-{time.monotonic_ns()}.part")
    part.write_bytes(buffer.getvalue())
    part.replace(target)
