"""Event files for TensorBoard, in ``train`` and ``validation`` of the run's folder.

Tags are those of Keras' own callback, so that runs can be compared: ``epoch_loss``, ``batch_loss``,
``<layer>/kernel/histogram``. Unlike it, this writes the op-level graph too, shows kernels with any number of
channels, computes histograms in NumPy (tenfold cheaper than by ops), and writes nothing before the first steps
are done, so that none of it delays training's start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.data.record import Array, TrainingData
from services.worker.training.steps import Logs
from services.worker.training.weight_images import as_image
from shared.specs import TrainJob

RUNS = ("train", "validation", "test")
MAX_HISTOGRAM_VALUES = 2_000_000  # of larger weights every n-th value is counted


def event_files(run_dir: Path) -> list[Path]:
    """All files that TensorBoard reads in a run's folder."""
    return [
        *run_dir.glob("events.out.tfevents.*"),
        *(path for name in RUNS for path in (run_dir / name).rglob("*") if path.is_file()),
    ]


class EventFiles:
    """The writers of one run. Every method writes at once; ``flush`` makes it visible."""

    def __init__(self, run_dir: Path, job: TrainJob, model: keras.Model, data: TrainingData) -> None:
        self._run_dir = run_dir
        self._job, self._spec = job, job.tensorboard
        self._model, self._data = model, data
        self._open: dict[str, Any] = {}
        self._introduced = False

    def begin(self) -> None:
        """Training begins, or goes on."""

    def state(self) -> dict[str, Any]:
        """What is written once and has been, for a checkpoint."""
        return {"introduced": self._introduced}

    def restore(self, state: dict[str, Any]) -> None:
        """Give back what ``state`` gave."""
        self._introduced = bool(state.get("introduced"))

    def before(self, total: int) -> None:
        """The next step is number ``total`` + 1."""

    def steps_to_next(self, total: int) -> int | None:
        """Steps from ``total`` to one at which ``before`` or ``steps`` must be called."""
        return None

    def steps(self, total: int, losses: Array, logs: Logs) -> None:
        """``len(losses)`` steps ended at step ``total``; ``logs`` are the means so far."""
        every = {"epoch": 0, "batch": 1}.get(str(self._spec.update_freq), self._spec.update_freq)
        if not self._introduced and total > 1:
            self._introduced = True
            self._introduce()
        if not isinstance(every, int) or not every:
            return
        with self._writer("train").as_default():
            for index in range(-(total - len(losses) + 1) % every, len(losses), every):
                _scalar("batch_loss", float(losses[index]), total - len(losses) + 1 + index)
            for name, value in logs.items():
                if name != "loss":
                    _scalar(f"batch_{name}", value, total)
        self._writer("train").flush()

    def epoch(self, epoch: int, total: int, logs: Logs) -> None:
        """``epoch``, counted from 0, is done after ``total`` steps."""
        train = {name: value for name, value in logs.items() if not name.startswith("val_")}
        validation = {name[4:]: value for name, value in logs.items() if name.startswith("val_")}
        if not self._introduced:  # an epoch of a single step
            self._introduced = True
            self._introduce()
        with self._writer("train").as_default():
            for name, value in train.items():
                _scalar(f"epoch_{name}", value, epoch)
            if "learning_rate" not in train:
                _scalar(
                    "epoch_learning_rate", float(keras.ops.convert_to_numpy(self._learning_rate())), epoch
                )
            if self._spec.histogram_freq and epoch % self._spec.histogram_freq == 0:
                self._weights(epoch)
        if validation:
            with self._writer("validation").as_default():
                for name, value in validation.items():
                    _scalar(f"epoch_{name}", value, epoch)
                    _scalar(f"evaluation_{name}_vs_iterations", value, total)
        self.flush()

    def flush(self) -> None:
        """Make all that was written visible to readers."""
        for writer in self._open.values():
            writer.flush()

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._open.values():
            writer.close()
        self._open.clear()

    def _writer(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = tf.summary.create_file_writer(str(self._run_dir / name))
        return self._open[name]

    def _learning_rate(self) -> Any:
        return self._model.optimizer.learning_rate

    def _introduce(self) -> None:
        """What is written once: the spec as text, sample images, both graphs."""
        with self._writer("train").as_default():
            tf.summary.text("job", _as_markdown(self._job), step=0)
            count = self._spec.sample_images
            if count and self._data.input_kind == "image" and self._data.input_shape[-1] in {1, 3, 4}:
                images = self._data.train.x[:count].astype(np.float32) / self._data.pixel_scale
                tf.summary.image("training_images", np.clip(images, 0, 1), step=0, max_outputs=count)
            if self._spec.write_graph:
                _conceptual_graph(self._model)
                _op_graph(self._model)
        self._writer("train").flush()

    def _weights(self, epoch: int) -> None:
        for variable in self._model.weights:
            values = np.asarray(keras.ops.convert_to_numpy(variable))
            if not values.size or values.dtype.kind != "f":
                continue
            name = variable.path.replace(":", "_")
            _histogram(f"{name}/histogram", values, epoch)
            image = as_image(values) if self._spec.write_images else None
            if image is not None:
                tf.summary.image(f"{name}/image", image, step=epoch)


def _as_markdown(job: TrainJob) -> str:
    text = json.dumps(job.model_dump(mode="json"), indent=2)
    return "\n".join(f"    {line}" for line in text[:100_000].splitlines())  # indented is preformatted


def _scalar(tag: str, value: float, step: int) -> None:
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb

    tf.summary.experimental.write_raw_pb(scalar_pb(tag, value).SerializeToString(), step=step)


def _histogram(tag: str, values: Array, step: int) -> None:
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb

    flat = values.ravel()[:: 1 + values.size // MAX_HISTOGRAM_VALUES]
    flat = flat[np.isfinite(flat)]  # weights may have become NaN; bins can't
    if flat.size:
        tf.summary.experimental.write_raw_pb(histogram_pb(tag, flat).SerializeToString(), step=step)


def _conceptual_graph(model: keras.Model) -> None:
    """Layers as boxes, from the model's own JSON."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "graph_keras_model"
    metadata.plugin_data.content = b"1"
    tf.summary.write(tag="keras", tensor=tf.constant(model.to_json(), tf.string), step=0, metadata=metadata)


def _op_graph(model: keras.Model) -> None:
    """Ops of the forward pass."""
    source = model.inputs[0]
    spec = tf.TensorSpec((None, *source.shape[1:]), source.dtype, name=source.name)
    forward = tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(spec)
    tf.summary.graph(forward.graph)
