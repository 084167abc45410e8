"""Event files for TensorBoard, in ``train`` and ``validation`` of the run's folder.

Tags are those of Keras' own callback, so that runs can be compared: ``epoch_loss``, ``batch_loss``,
``<layer>/kernel/histogram``. Unlike it, this writes the op-level graph too, shows kernels with any number of
channels, computes histograms in NumPy (tenfold cheaper than by ops), and writes nothing before the first steps
are done, so that none of it delays training's start.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training import confusion, hparams, summaries
from services.worker.training.data.record import Array, TrainingData
from services.worker.training.profile import Profile
from services.worker.training.steps import Logs
from services.worker.training.weight_images import as_image
from shared.specs import TrainJob

RUNS = ("train", "validation", "test")


def event_files(run_dir: Path) -> list[Path]:
    """All files that TensorBoard reads in a run's folder."""
    return [
        *run_dir.glob("events.out.tfevents.*"),
        *(path for name in RUNS for path in (run_dir / name).rglob("*") if path.is_file()),
    ]


class EventFiles:
    """The writers of one run. Every method writes at once; ``flush`` makes it visible.

    Not ``compared``: a study says of this run what the HParams page shows.
    """

    def __init__(
        self,
        run_dir: Path,
        job: TrainJob,
        model: keras.Model,
        data: TrainingData,
        *,
        compared: bool = True,
    ) -> None:
        self._run_dir = run_dir
        self._job, self._spec = job, job.tensorboard
        self._compared = compared and job.tensorboard.hparams
        self._model, self._data = model, data
        self._open: dict[str, Any] = {}
        self._introduced = False
        self._profile = Profile(run_dir / "train", self._spec.profile)

    def state(self) -> dict[str, Any]:
        """What is written once and has been, for a checkpoint."""
        return {"introduced": self._introduced, "profiled": self._profile.done}

    def restore(self, state: dict[str, Any]) -> None:
        """Give back what ``state`` gave."""
        self._introduced = bool(state.get("introduced"))
        self._profile.done = bool(state.get("profiled"))

    def around(self, total: int) -> AbstractContextManager[None]:
        """The steps after ``total`` run within."""
        return self._profile.around(total)

    def steps_to_next(self, total: int) -> int | None:
        """Steps from ``total`` to one at which a call must end."""
        return self._profile.steps_to_next(total)

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
                summaries.scalar("batch_loss", float(losses[index]), total - len(losses) + 1 + index)
            for name, value in logs.items():
                if name != "loss":
                    summaries.scalar(f"batch_{name}", value, total)
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
                summaries.scalar(f"epoch_{name}", value, epoch)
            if "learning_rate" not in train:
                summaries.scalar(
                    "epoch_learning_rate", float(keras.ops.convert_to_numpy(self._learning_rate())), epoch
                )
            if self._spec.histogram_freq and epoch % self._spec.histogram_freq == 0:
                self._weights(epoch)
        if validation:
            with self._writer("validation").as_default():
                for name, value in validation.items():
                    summaries.scalar(f"epoch_{name}", value, epoch)
                    summaries.scalar(f"evaluation_{name}_vs_iterations", value, total)
        self.flush()

    def tested(self, metrics: Logs, epochs: int, total: int, *, logits: bool) -> None:
        """The finished model on the test rows, after ``epochs`` epochs of ``total`` steps."""
        epoch = max(0, epochs - 1)
        with self._writer("test").as_default():
            for name, value in metrics.items():
                summaries.scalar(f"epoch_{name}", value, epoch)
                summaries.scalar(f"evaluation_{name}_vs_iterations", value, total)
            if self._spec.confusion_matrix:
                self._confusion(epoch, logits)
        self.flush()

    def _confusion(self, epoch: int, logits: bool) -> None:
        names, rows = self._data.classes, self._data.test
        if rows is None or names is None or not 1 < len(names) <= confusion.MAX_CLASSES:
            return
        matrix = confusion.count(self._model, rows, len(names), logits=logits)
        tf.summary.image("confusion_matrix", confusion.draw(matrix, names)[np.newaxis], step=epoch)
        tf.summary.text("confusion_matrix_counts", _table(matrix, names), step=epoch)

    def ended(self, *, success: bool) -> None:
        """The job has come to an end of its own."""
        if self._compared and self._introduced:
            with self._writer("").as_default():
                summaries.session_end(success=success)
        self.close()

    def flush(self) -> None:
        """Make all that was written visible to readers."""
        for writer in self._open.values():
            writer.flush()

    def close(self) -> None:
        """Flush and close the files. What is written later opens new ones."""
        self._profile.stop()
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
        """What is written once: settings, the spec as text, sample images, both graphs."""
        if self._compared:
            # as it was written in the job: 0.01, not the nearest float32
            rate = float(str(np.float32(keras.ops.convert_to_numpy(self._learning_rate()))))
            with self._writer("").as_default():
                summaries.session_start(
                    hparams.of(self._job, type(self._model.optimizer).__name__, rate), self._run_dir.name
                )
            self._writer("").flush()
        with self._writer("train").as_default():
            if self._spec.text:
                tf.summary.text("job", _as_markdown(self._job), step=0)
            count = self._spec.sample_images
            if count and self._data.input_kind == "image" and self._data.input_shape[-1] in {1, 3, 4}:
                images = self._data.train.x[:count].astype(np.float32) / self._data.pixel_scale
                tf.summary.image("training_images", np.clip(images, 0, 1), step=0, max_outputs=count)
            if self._spec.write_graph:
                summaries.conceptual_graph(self._model)
                summaries.op_graph(self._model)
        self._writer("train").flush()

    def _weights(self, epoch: int) -> None:
        for variable in self._model.weights:
            values = np.asarray(keras.ops.convert_to_numpy(variable))
            if not values.size or values.dtype.kind != "f":
                continue
            name = variable.path.replace(":", "_")
            summaries.histogram(f"{name}/histogram", values, epoch)
            image = as_image(values) if self._spec.write_images else None
            if image is not None:
                tf.summary.image(f"{name}/image", image, step=epoch)


def _as_markdown(job: TrainJob) -> str:
    text = json.dumps(job.model_dump(mode="json"), indent=2)
    return "\n".join(f"    {line}" for line in text[:100_000].splitlines())  # indented is preformatted


def _table(matrix: Array, names: list[str]) -> str:
    """The confusion matrix in Markdown."""
    plain = [" ".join(name.replace("|", "/").split()) for name in names]
    rows = [["true / predicted", *plain], ["---"] * (len(names) + 1)]
    rows += [[name, *map(str, row)] for name, row in zip(plain, matrix, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
