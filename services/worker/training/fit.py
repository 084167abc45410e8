"""The training loop: chunks of steps, and between them everything that must happen at a step boundary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from services.worker.protocol import CheckpointWritten, RunDir
from services.worker.training import best, checkpoints, run_files
from services.worker.training import callbacks as user_callbacks
from services.worker.training.checkpoints import Checkpoint, Position
from services.worker.training.data.record import Array, RowFile, TrainingData
from services.worker.training.data.row_file import CHUNK_BYTES
from services.worker.training.emitter import Emitter
from services.worker.training.failures import TrainingFailed
from services.worker.training.occasions import Occasions
from services.worker.training.progress import Reporter
from services.worker.training.state import State
from services.worker.training.steps import Logs, Steps, as_tensor, first_bad
from services.worker.training.stopping import StopRequested, StopSignal
from services.worker.training.tensorboard import EventFiles, event_files
from services.worker.training.timings import Timings
from shared.specs import TrainJob
from shared.specs.callbacks import TerminateOnNaN

CHUNK_SECONDS = 0.2  # between two looks at the stop flag; progress is sent every 0.25 s
MAX_CHUNK = 10_000


@dataclass
class Training:
    """One attempt at training, from ``position`` to the end. ``run`` once."""

    job: TrainJob
    data: TrainingData
    model: keras.Model
    steps: Steps
    state: State
    run_dir: RunDir
    emit: Emitter
    stop: StopSignal
    board: EventFiles
    timings: Timings
    writes: bool = True  # False: a member of a cluster whose files nobody wants
    position: Position = field(default_factory=Position)
    newest_checkpoint: str | None = None
    _chunk: int = 1
    _complete: bool = False
    _metrics: Logs = field(default_factory=dict)

    def run(self, resume: Checkpoint | None, source: Path | None = None) -> None:
        """Train. At the end ``position`` says how far it came.

        Args:
            resume: where an earlier attempt stood.
            source: the run's folder that it is in.

        Raises:
            StopRequested: SIGTERM; a checkpoint has been written.
            TrainingFailed: nan_loss, or model_invalid for a callback that can't work.
        """
        with self.stop.deferred():
            self._run(resume, source)

    @property
    def metrics(self) -> Logs:
        """At the end of the last epoch, also when an earlier attempt trained it."""
        return {name: float(value) for name, value in self._metrics.items()}

    @property
    def best_value(self) -> float | None:
        """Of the metric that the best checkpoint goes by."""
        note = self._best.note if self._best is not None else None
        return None if note is None else float(note["value"])

    def _run(self, resume: Checkpoint | None, source: Path | None) -> None:
        self._take_back_files(resume, source)
        self._callbacks = user_callbacks.make(self.job.fit.callbacks, self.run_dir.root)
        epochs, steps = self.job.fit.epochs, self.steps.order.steps
        self._list = keras.callbacks.CallbackList(
            self._callbacks, model=self.model, epochs=epochs, steps=steps, verbose=0
        )
        self._reporter = Reporter(self.emit, epochs=epochs, steps=steps)
        self._validation = _tensors(self.data)
        asked = [spec.params for spec in self.job.fit.callbacks if isinstance(spec, TerminateOnNaN)]
        self.steps.ends_at_bad_loss = any(not params.raise_error for params in asked)
        by_callback = {"LearningRateScheduler", "ReduceLROnPlateau"} & {
            c.name for c in self.job.fit.callbacks
        }
        self._rate_changes = bool(by_callback) or not isinstance(self.job.fit.learning_rate, float | None)
        self._fails_for_nan = self.job.fit.on_nan == "fail" or bool(asked)
        self._occasions = Occasions(self.job.checkpoint)
        self._check_names()
        self.model.stop_training = False
        self._list.on_train_begin()
        if resume is not None:
            self._resume(resume)
        for epoch in range(self.position.epoch, epochs if not self._complete else 0):
            self._epoch(epoch)
            if self._complete:
                break
        self._list.on_train_end()
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        self._note_files()

    def _take_back_files(self, resume: Checkpoint | None, source: Path | None) -> None:
        """Undo what a lost attempt wrote after the checkpoint (all, if there is none to go on from)."""
        if not self.writes:
            return
        root, specs = self.run_dir.root, self.job.fit.callbacks
        present = [*event_files(root), *(root / name for name in user_callbacks.files_of(specs, root))]
        noted = resume.files if resume is not None else {}
        run_files.take_back(root, noted, present, self.emit.warn, source)
        position = resume.position if resume is not None else None
        checkpoints.discard_after(self.run_dir.checkpoints, position)
        if resume is not None and source is not None and source != root:
            checkpoints.adopt(RunDir(source).checkpoints, self.run_dir.checkpoints, resume)

    def _check_names(self) -> None:
        """Refuse names of metrics that there will not be, before any time is spent."""
        batch = set(self.steps.current())
        epoch = batch | ({f"val_{name}" for name in batch} if self._validation is not None else set())
        user_callbacks.check(self.job.fit.callbacks, self._callbacks, batch, epoch)
        self._best = best.make(self.job.checkpoint.best, self.model, epoch)

    def _resume(self, checkpoint: Checkpoint) -> None:
        self.position, self._complete = checkpoint.position, checkpoint.complete
        if self.position.step:
            # the epoch has begun already: what that does to callbacks and model is part of the state put back below
            self._list.on_epoch_begin(self.position.epoch)
        self.state.give_back(checkpoint.arrays)
        user_callbacks.restore(self._callbacks, checkpoint.callbacks, checkpoint.arrays)
        self.model.stop_training = checkpoint.stopping
        if self._best is not None:
            self._best.note = checkpoint.best
        self.board.restore(checkpoint.board)
        self._occasions.note(self.position, self._complete)
        self._metrics = checkpoint.metrics

    def _epoch(self, epoch: int) -> None:
        if self.position.step == 0:
            self.steps.reset()
            self._list.on_epoch_begin(epoch)
        self._reporter.epoch_began(epoch, self.position.step)
        logs = self._train_steps(epoch)
        logs |= self._validate()
        if self._rate_changes:  # Keras' callbacks tell it to each other only
            rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            logs |= {"learning_rate": float(rate)}
        self._list.on_epoch_end(epoch, logs)
        self.board.epoch(epoch, self.position.total, logs)
        self._reporter.epoch_ended(epoch, self.position.total, logs)
        self.position = Position(epoch + 1, 0, self.position.total)
        self._complete = epoch + 1 >= self.job.fit.epochs or bool(self.model.stop_training)
        self._metrics = dict(logs)
        improved = self._best is not None and self._best.improved(
            logs, epoch + 1, f"{self.position.stem}.npz"
        )
        # with checkpoints every so many steps, an epoch's end is no occasion; the best and the last always are
        if self._occasions.at_epochs or self._complete or improved:
            self._write_checkpoint()
        if self.stop.requested:
            self._stop()

    def _train_steps(self, epoch: int) -> Logs:
        steps, logs = self.steps.order.steps, {}
        if self.position.step >= steps:  # an earlier attempt was stopped before validation
            logs = self.steps.current()
        while self.position.step < steps and not self.model.stop_training:
            begin = self.position.step
            count = self.steps.agree(self._next_chunk(), self.position.total, self.stop)
            self._list.on_train_batch_begin(begin)
            started = time.monotonic()
            with self.board.around(self.position.total):
                losses, logs = self.steps.train(epoch, begin, count)
            seconds = time.monotonic() - started
            count = len(losses)  # fewer if they ended at a bad loss
            self.position = Position(epoch, begin + count, self.position.total + count)
            self._after_chunk(epoch, losses, logs, seconds)
        return logs

    def _after_chunk(self, epoch: int, losses: Array, logs: Logs, seconds: float) -> None:
        step = self.position.step
        if self.position.total and self.timings.first("first_step"):
            self.emit.note(timings=self.timings.marks)
        bad = first_bad(losses)
        if bad is not None:
            self._bad_loss(epoch, step - len(losses) + bad + 1, float(losses[bad]))
        self._list.on_train_batch_end(step - 1, logs)
        self._reporter.chunk_done(epoch, step, losses, logs, seconds)
        self.board.steps(self.position.total, losses, logs)
        self._adapt(len(losses), seconds)
        self._metrics = dict(logs)
        if self.stop.requested or self._occasions.at_step(self.position.total):
            self._write_checkpoint()
        if self.stop.requested:
            self._stop()

    def _next_chunk(self) -> int:
        """Steps until the next thing that must happen at a step boundary."""
        left = self.steps.order.steps - self.position.step
        chunk = min(self.job.fit.steps_per_execution or self._chunk, left)
        total = self.position.total
        wishes = (
            self._occasions.steps_to_next(total),
            user_callbacks.steps_to_next(self._callbacks),
            self.board.steps_to_next(total),
        )
        return min([chunk, *(wish for wish in wishes if wish is not None)])

    def _adapt(self, count: int, seconds: float) -> None:
        # grow at most twofold: the first steps of a program are slow, and one measurement may be off
        wanted = int(CHUNK_SECONDS / max(seconds / count, 1e-6))
        self._chunk = max(1, min(wanted, 2 * self._chunk, MAX_CHUNK))

    def _validate(self) -> Logs:
        if self._validation is None:
            return {}
        before = self.state.take_metrics()
        try:
            self._list.on_test_begin()
            logs = evaluate(self.steps, self._validation, self.stop)
            self._list.on_test_end(logs)
        except StopRequested:
            # the next attempt finds all steps of this epoch done, and begins with its validation
            self.state.give_back_metrics(before)
            self._write_checkpoint()
            raise
        return {f"val_{name}": value for name, value in logs.items()}

    def _write_checkpoint(self) -> None:
        if self._occasions.written == (self.position, self._complete):
            return  # the state is that of its place, so it would be the same again
        if not self.writes:
            self._occasions.note(self.position, self._complete)
            return
        values, arrays = user_callbacks.state_of(self._callbacks)
        root = self.run_dir.root
        self.board.flush()  # so that the files have what the checkpoint says they have
        checkpoint = Checkpoint(
            position=self.position,
            arrays={**self.state.take(), **arrays},
            callbacks=values,
            identity=self.state.identity,
            complete=self._complete,
            stopping=bool(self.model.stop_training),
            metrics=self._metrics,
            best=self._best.note if self._best is not None else None,
            files={
                **run_files.sizes(root, event_files(root)),
                **user_callbacks.files_of(self.job.fit.callbacks, root),
            },
            board=self.board.state(),
        )
        path = checkpoints.write(self.run_dir.checkpoints, checkpoint, self.job.checkpoint.keep)
        self._occasions.note(self.position, self._complete)
        self.newest_checkpoint = str(path.relative_to(root))
        self.emit(
            CheckpointWritten(
                path=self.newest_checkpoint, epoch=self.position.epoch, step=self.position.total
            )
        )

    def _note_files(self) -> None:
        """Tell which files the user's callbacks have left in the run's folder."""
        root = self.run_dir.root
        names = sorted(user_callbacks.files_of(self.job.fit.callbacks, root))
        if names:
            self.emit.note(
                callback_files=[
                    {"path": name, "size_bytes": (root / name).stat().st_size} for name in names[-200:]
                ]
            )

    def _stop(self) -> None:
        self._write_checkpoint()
        raise StopRequested

    def _bad_loss(self, epoch: int, step: int, loss: float) -> None:
        what = f"The loss became {loss} at step {step} of epoch {epoch + 1}."
        if self.steps.ends_at_bad_loss:  # the callback ends training
            self.emit.warn("nan_loss", f"{what} TerminateOnNaN ends training there.")
        elif self._fails_for_nan:
            raise TrainingFailed(
                "nan_loss",
                what,
                "Lower fit.learning_rate, scale the inputs (model.preprocessing), or set clipnorm in the optimizer's "
                "params. fit.on_nan = 'continue' trains on regardless.",
            )


def _tensors(data: TrainingData) -> tuple[Any, Any] | None:
    if data.validation is None:
        return None
    return as_tensor(data.validation.x), as_tensor(data.validation.y)


def evaluate(steps: Steps, tensors: tuple[Any, Any], stop: StopSignal) -> Logs:
    """Loss and metrics over all rows of (x, y), in the training's batch size.

    Raises:
        StopRequested: between two chunks, if SIGTERM came.
    """
    steps.reset()
    chunk, logs = 1, {}
    for part in _in_memory(tensors, steps.order.batch):
        total, done = -(-int(part[0].shape[0]) // steps.order.batch), 0
        while done < total:
            stop.check()
            count = steps.agree(min(chunk, total - done), done, stop)
            started = time.monotonic()
            logs = steps.test(part, done, count)
            seconds = time.monotonic() - started
            done += count
            chunk = max(1, min(2 * chunk, int(CHUNK_SECONDS / max(seconds / count, 1e-6))))
    steps.reset()
    return logs


def _in_memory(tensors: tuple[Any, Any], batch: int) -> Iterator[tuple[Any, Any]]:
    """(x, y) as they are; of inputs on disk, some megabytes of whole batches at a time."""
    x, y = tensors
    if not isinstance(x, RowFile):
        yield tensors
        return
    rows = batch * max(1, CHUNK_BYTES * len(x) // max(1, batch * x.nbytes))
    for start in range(0, len(x), rows):
        yield as_tensor(x[start : start + rows]), y[start : start + rows]
