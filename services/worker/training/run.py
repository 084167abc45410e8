"""One job from its request to its export, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import keras

from services.worker.protocol import Finished, RunDir, StageEntered, TrainingRequest
from services.worker.training import (
    compiling,
    continued,
    devices,
    ending,
    footprint,
    heads,
    kept,
    membership,
    model_facts,
    models,
    precision,
    provenance,
    runtime,
    state,
    strategies,
)
from services.worker.training.class_weights import class_weights
from services.worker.training.compiling import Compiled
from services.worker.training.coordinated import CoordinatedSteps
from services.worker.training.data import loading
from services.worker.training.data.order import Order
from services.worker.training.data.record import TrainingData
from services.worker.training.device_plan import Plan
from services.worker.training.emitter import Emitter
from services.worker.training.failures import TrainingFailed
from services.worker.training.fit import Training, evaluate
from services.worker.training.state import State
from services.worker.training.steps import Steps, as_tensor
from services.worker.training.stopping import StopRequested, StopSignal
from services.worker.training.strategies.opened import OpenStrategy
from services.worker.training.strategies.parameter_server import Coordinated
from services.worker.training.streamed import StreamedSteps
from services.worker.training.tensorboard import EventFiles
from services.worker.training.timings import Timings
from services.worker.training.user_code import Code
from shared.specs import TensorBoardSpec, TrainJob, parse_job
from shared.specs.strategy import Replicated

_NOTHING_SHOWN = TensorBoardSpec(histogram_freq=0, write_images=False, write_graph=False, sample_images=0)


@dataclass
class Run:
    """What a job's stages hand to each other. ``checkpoint`` is the newest one known, relative to the run dir."""

    request: TrainingRequest
    emit: Emitter
    stop: StopSignal
    timings: Timings
    checkpoint: str | None = None
    _training: Training | None = field(default=None, init=False)
    _plan: Plan | None = field(default=None, init=False)

    def run(self) -> Finished:
        """Go through all stages.

        Raises:
            TrainingFailed, or any error of the libraries: the job has failed.
            StopRequested: SIGTERM.
        """
        job = self._parsed()
        if not self.request.is_chief:
            job = job.model_copy(update={"tensorboard": _NOTHING_SHOWN})
        run_dir = RunDir(self.request.files_dir)
        run_dir.root.mkdir(parents=True, exist_ok=True)
        self._stage("preparing_data")
        self._plan = plan = devices.apply(job.devices, self.emit)
        runtime.prepare(job.fit)
        opened = strategies.open(job.strategy)
        for doubt in strategies.doubts(job.strategy, job.devices, opened):
            self.emit.warn(*doubt)
        self.stop.install()  # TensorFlow's coordination service has put a handler of its own in the place of ours
        code = Code(self.request.code)
        data = loading.load(job.dataset, job.fit, self.request, self.emit, code)
        self._note_data(job, data, opened)
        self._check_data(data)
        self._stage("building")
        with opened.scope():
            start = continued.open_source(job.model, self.request, code, self.emit)
            model = models.build(job.model, data, code, start)
            precision.settle(model, job.devices.mixed_precision, self.emit)
        head = heads.head_of(model)
        heads.check(head, data)
        compiled = compiling.compile_model(model, job.fit, data, head, opened.scope)
        devices.settle_xla(model, job.devices, plan, opened.replicas, self.emit)
        if start is not None:
            with opened.scope():
                start.give_optimizer(job, model)
        weighted = data.weights is not None
        compiled = replace(compiled, weighted=weighted, class_weight=class_weights(job.fit, data))
        steps = _steps(job, data, model, compiled, opened)
        self._note_model(model, compiled, steps)
        facts = model_facts.of_training(data, head, compiled)
        golden = kept.golden_rows(data)
        kept.begin(run_dir.kept, model, facts, golden, job=self.request.job_id)
        self._preflight(job, data, steps, compiled, opened)
        training = self._train(job, data, model, steps, run_dir)
        self.emit.note(weights=provenance.weights_digest(model))
        metrics = self._evaluate(data, steps, training, logits=compiled.logits)
        if not self.request.is_chief:
            membership.wait_to_be_ended()
        self._stage("exporting")
        finished = ending.end(self.request, job, model, facts, golden, metrics, self.emit)
        training.board.ended(success=True)
        self.timings.mark("exported")
        self.emit.note(timings=self.timings.marks)
        loading.discard(self.request)
        place, best = training.position, training.best_value
        known = {"last_metrics": training.metrics, "best_value": best}
        return finished.model_copy(update={"epochs": place.epoch, "steps": place.total, **known})

    def note_gpu_memory(self) -> None:
        """Tell how large the GPUs are, once one was too small."""
        self.emit.note(memory={"gpu_bytes": devices.smallest_gpu_bytes(self._plan)})

    def newest_checkpoint(self) -> str | None:
        """Of this attempt, relative to the run dir."""
        return self._training.newest_checkpoint if self._training is not None else self.checkpoint

    def _parsed(self) -> TrainJob:
        try:
            job = parse_job(self.request.spec)
        except ValueError as error:
            raise TrainingFailed("request_invalid", f"the job's spec can't be read: {error}") from error
        if not isinstance(job, TrainJob):
            raise TrainingFailed("request_invalid", f"a job of kind {job.kind!r} trains nothing")
        return job

    def _stage(self, name: str) -> None:
        self.stop.check()
        self.timings.mark(name)
        self.emit(StageEntered(stage=name))

    def _note_data(self, job: TrainJob, data: TrainingData, opened: OpenStrategy) -> None:
        self.timings.mark("data_ready")
        self.emit.note(
            data=data.facts(),
            **provenance.facts(job),
            devices=devices.facts(job.devices, self._plan),
            strategy={"kind": opened.kind, "devices": [*opened.devices], **opened.facts},
            replicas=opened.replicas,
            batch_size=job.fit.batch_size,
            global_batch=job.fit.batch_size * opened.replicas,
        )

    def _check_data(self, data: TrainingData) -> None:
        wanted = self.request.expected_data
        if wanted is not None and data.fingerprint != wanted:
            raise TrainingFailed(
                "data_changed",
                f"The data are not those that the reproduced job was trained on: their hash was {wanted}, and is "
                f"{data.fingerprint} now.",
                "Bring the old data back; or submit the job's spec as a new job, to train on the data as they are.",
            )

    def _note_model(self, model: keras.Model, compiled: Compiled, steps: Steps) -> None:
        self.timings.mark("model_ready")
        self.emit.note(
            model={
                "name": model.name,
                "parameters": model.count_params(),
                "loss": compiled.loss,
                "optimizer": compiled.optimizer,
                "metrics": compiled.metrics,
            },
            steps_per_epoch=steps.order.steps,
        )
        taken = footprint.of(model)
        if taken is not None:
            self.emit.note(memory=taken.facts())

    def _preflight(
        self, job: TrainJob, data: TrainingData, steps: Steps, compiled: Compiled, opened: OpenStrategy
    ) -> None:
        if not (isinstance(job.strategy, Replicated) and job.strategy.preflight):
            return
        if isinstance(opened, Coordinated):
            why = "steps of several workers have no set order"
            self.emit.note(preflight={"result": "skipped", "why": why})
            return
        if opened.replicas < 2:
            return
        self._stage("preflight")
        from services.worker.training import preflight  # only jobs on replicas need it

        def on_one_device(model: keras.Model) -> Steps:
            return StreamedSteps(model, data.rows_for_steps, steps.order, compiled)

        found = preflight.check(steps, opened, on_one_device)
        self.emit.note(preflight=found)
        if found["result"] == "skipped":
            self.emit.warn("preflight_skipped", f"Preflight could not compare the replicas: {found['why']}.")

    def _train(
        self, job: TrainJob, data: TrainingData, model: keras.Model, steps: Steps, run_dir: RunDir
    ) -> Training:
        identity = {"data": data.fingerprint, "batch_size": steps.order.batch, "seed": job.fit.seed}
        if self.request.code:
            identity["code"] = Code(self.request.code).hashes
        kept = State(model, steps, identity)
        folders = [RunDir(folder).checkpoints for folder in self.request.resume_dirs]
        found = state.find(folders, kept.identity, self.emit.warn)
        folder, resume = found if found is not None else (None, None)
        board = EventFiles(run_dir.root, job, model, data, compared=self.request.trial is None)
        self._training = training = Training(
            job,
            data,
            model,
            steps,
            kept,
            run_dir,
            self.emit,
            self.stop,
            board,
            self.timings,
            writes=self.request.is_chief,
        )
        if resume is not None:
            place = resume.position
            self.emit.note(resumed_from={"epoch": place.epoch, "step": place.step, "total": place.total})
        self._stage("training")
        try:
            training.run(resume, folder.parent if folder is not None else None)
        except StopRequested:
            board.close()
            raise
        except Exception:
            board.ended(success=False)
            raise
        board.flush()
        return training

    def _evaluate(
        self, data: TrainingData, steps: Steps, training: Training, *, logits: bool
    ) -> dict[str, float]:
        if data.test is None:
            return {}
        if self.request.trial is not None and not self.request.trial.evaluate:
            return {}
        self._stage("evaluating")
        logs = evaluate(steps, (as_tensor(data.test.x), as_tensor(data.test.y)), self.stop)
        training.board.tested(logs, training.position.epoch, training.position.total, logits=logits)
        metrics = {f"test_{name}": value for name, value in logs.items()}
        print("test: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()), flush=True)  # noqa: T201 - job log
        return metrics


def _steps(
    job: TrainJob, data: TrainingData, model: keras.Model, compiled: Compiled, opened: OpenStrategy
) -> Steps:
    order = _order(job, data, opened.replicas)
    opened = opened.dealing(order.batch, data.fingerprint)
    if isinstance(opened, Coordinated):
        return CoordinatedSteps(model, data.rows_for_steps, order, compiled, opened)
    if not data.streamed:
        return Steps(model, data.rows_for_steps, order, compiled, opened)
    steps = StreamedSteps(model, data.rows_for_steps, order, compiled, opened)
    if data.pipeline is not None:
        steps.pipeline = data.pipeline
    return steps


def _order(job: TrainJob, data: TrainingData, replicas: int) -> Order:
    return Order(
        rows=len(data.train),
        batch=job.fit.batch_size * replicas,
        seed=job.fit.seed,
        shuffle=job.dataset.shuffle,
        steps_per_epoch=job.fit.steps_per_epoch,
    )
