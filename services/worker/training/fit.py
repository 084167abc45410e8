"""The training loop: chunks of steps, and between them everything that must happen at a step boundary."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import keras

from services.worker.protocol import CheckpointWritten, RunDir
from services.worker.training import callbacks as user_callbacks
from services.worker.training import checkpoints
from services.worker.training.checkpoints import Checkpoint, Position
from services.worker.training.data.record import Array, TrainingData
from services.worker.training.emitter import Emitter
from services.worker.training.failures import TrainingFailed
from services.worker.training.progress import Reporter
from services.worker.training.state import State
from services.worker.training.steps import Logs, Steps, as_tensor, first_bad
from services.worker.training.stopping import StopRequested, StopSignal
from services.worker.training.tensorboard import EventFiles
from services.worker.training.timings import Timings
from shared.specs import TrainJob

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
    position: Position = field(default_factory=Position)
    newest_checkpoint: str | None = None
    _chunk: int = 1
    _complete: bool = False

    def run(self, resume: Checkpoint | None) -> None:
        """Train. At the end ``position`` says how far it came.

        Raises:
            StopRequested: SIGTERM; a checkpoint has been written.
            TrainingFailed: nan_loss.
        """
        with self.stop.deferred():
            self._run(resume)

    def _run(self, resume: Checkpoint | None) -> None:
        self._callbacks = user_callbacks.make(
            self.job.fit.callbacks, self.run_dir.root, resuming=resume is not None
        )
        epochs, steps = self.job.fit.epochs, self.steps.order.steps
        self._list = keras.callbacks.CallbackList(
            self._callbacks, model=self.model, epochs=epochs, steps=steps, verbose=0
        )
        self._reporter = Reporter(self.emit, epochs=epochs, steps=steps)
        self._validation = _tensors(self.data)
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

    def _resume(self, checkpoint: Checkpoint) -> None:
        self.position, self._complete = checkpoint.position, checkpoint.complete
        self.state.give_back(dict(checkpoint.arrays))
        user_callbacks.restore(self._callbacks, checkpoint.callbacks, checkpoint.arrays)

    def _epoch(self, epoch: int) -> None:
        if self.position.step == 0:
            self.steps.reset()
        self._list.on_epoch_begin(epoch)
        self._reporter.epoch_began(epoch, self.position.step)
        logs = self._train_steps(epoch)
        logs |= self._validate()
        self._list.on_epoch_end(epoch, logs)
        self.board.epoch(epoch, self.position.total, logs)
        self._reporter.epoch_ended(epoch, self.position.total, logs)
        self.position = Position(epoch + 1, 0, self.position.total)
        self._complete = epoch + 1 >= self.job.fit.epochs or bool(self.model.stop_training)
        # with checkpoints every so many steps, an epoch's end is no occasion; the end of training always is
        if self.job.checkpoint.every == "epoch" or self._complete:
            self._write_checkpoint()
        if self.stop.requested:
            self._stop()

    def _train_steps(self, epoch: int) -> Logs:
        steps, logs = self.steps.order.steps, {}
        if self.position.step >= steps:  # an earlier attempt was stopped before validation
            logs = self.steps.current()
        while self.position.step < steps and not self.model.stop_training:
            begin, count = self.position.step, self._next_chunk()
            self._list.on_train_batch_begin(begin)
            started = time.monotonic()
            losses, logs = self.steps.train(epoch, begin, count)
            seconds = time.monotonic() - started
            self.position = Position(epoch, begin + count, self.position.total + count)
            self._after_chunk(epoch, losses, logs, seconds)
        return logs

    def _after_chunk(self, epoch: int, losses: Array, logs: Logs, seconds: float) -> None:
        step = self.position.step
        if self.position.total and self.timings.first("first_step"):
            self.emit.note(timings=self.timings.marks)
        bad = first_bad(losses) if self.job.fit.on_nan == "fail" else None
        if bad is not None:
            self._fail_for_nan(epoch, step - len(losses) + bad + 1, float(losses[bad]))
        self._list.on_train_batch_end(step - 1, logs)
        self._reporter.chunk_done(epoch, step, losses, logs, seconds)
        self.board.steps(self.position.total, losses, logs)
        self._adapt(len(losses), seconds)
        every = self.job.checkpoint.every
        if self.stop.requested or (isinstance(every, int) and self.position.total % every == 0):
            self._write_checkpoint()
        if self.stop.requested:
            self._stop()

    def _next_chunk(self) -> int:
        """Steps until the next thing that must happen at a step boundary."""
        left = self.steps.order.steps - self.position.step
        chunk = min(self.job.fit.steps_per_execution or self._chunk, left)
        every = self.job.checkpoint.every
        if isinstance(every, int):
            chunk = min(chunk, every - self.position.total % every)
        return chunk

    def _adapt(self, count: int, seconds: float) -> None:
        # grow at most twofold: the first steps of a program are slow, and one measurement may be off
        wanted = int(CHUNK_SECONDS / max(seconds / count, 1e-6))
        self._chunk = max(1, min(wanted, 2 * self._chunk, MAX_CHUNK))

    def _validate(self) -> Logs:
        if self._validation is None:
            return {}
        before = self.state.take_metrics()
        try:
            logs = evaluate(self.steps, self._validation, self.stop)
        except StopRequested:
            # the next attempt finds all steps of this epoch done, and begins with its validation
            self.state.give_back_metrics(before)
            self._write_checkpoint()
            raise
        return {f"val_{name}": value for name, value in logs.items()}

    def _write_checkpoint(self) -> None:
        values, arrays = user_callbacks.state_of(self._callbacks)
        checkpoint = Checkpoint(
            position=self.position,
            arrays={**self.state.take(), **arrays},
            callbacks=values,
            identity=self.state.identity,
            complete=self._complete,
        )
        path = checkpoints.write(self.run_dir.checkpoints, checkpoint, self.job.checkpoint.keep)
        self.newest_checkpoint = str(path.relative_to(self.run_dir.root))
        self.emit(
            CheckpointWritten(
                path=self.newest_checkpoint, epoch=self.position.epoch, step=self.position.total
            )
        )

    def _stop(self) -> None:
        if not self._complete and self.position.step == 0 and self.job.checkpoint.every != "epoch":
            self._write_checkpoint()
        raise StopRequested

    def _fail_for_nan(self, epoch: int, step: int, loss: float) -> None:
        raise TrainingFailed(
            "nan_loss",
            f"The loss became {loss} at step {step} of epoch {epoch + 1}.",
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
    total = -(-int(tensors[0].shape[0]) // steps.order.batch)
    done, chunk, logs = 0, 1, {}
    while done < total:
        stop.check()
        count = min(chunk, total - done)
        started = time.monotonic()
        logs = steps.test(tensors, done, count)
        seconds = time.monotonic() - started
        done += count
        chunk = max(1, min(2 * chunk, int(CHUNK_SECONDS / max(seconds / count, 1e-6))))
    steps.reset()
    return logs
