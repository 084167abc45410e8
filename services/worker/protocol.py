"""What the supervisor and the training program say to each other.

The program gets three file descriptors. From ``lifeline`` it reads one JSON line, the ``TrainingRequest``; the
supervisor then keeps the other end open and never writes again, so end-of-file means that the supervisor is gone
and the program ends itself. To ``events`` it writes one JSON object a line, each at most 64 KiB. Its own fd 1 and 2
are the job's log. SIGTERM asks it to write a checkpoint and stop.

A job may run as a cluster of such programs (``TrainingRequest.cluster``). Its chief speaks for the job; of the other
members only ``alive`` and ``failed`` mean something. They never end by themselves unless they failed: their supervisor
ends them when the chief has ended.

Exit codes: 0 after ``finished``; 1 after ``failed``; 75 (EX_TEMPFAIL) after ``stopped``. Anything else, or an end
without one of these events, is a crash.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

EXIT_FINISHED = 0
EXIT_FAILED = 1
EXIT_STOPPED = 75
MAX_EVENT_BYTES = 64 * 1024
# Codes of ``failed`` between a cluster and its supervisor, after which the job is tried again:
MEMBER_LOST = "member_lost"  # another member does not answer
PORT_TAKEN = "port_taken"  # somebody else listens at this member's port


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class SourceFiles(_Message):
    """The files of a trained model, already looked up (see ``shared.model_sources``)."""

    folder: Path  # with model.json, architecture.json, golden.npz and, if training had ended, model.keras
    root: Path  # the run's or version's folder
    checkpoint: str | None = None  # 'best', 'last' or relative to ``root``; None: model.keras
    lineage: dict[str, Any] = {}


class ClusterTask(_Message):
    """One program's place in a cluster. The words are TensorFlow's: see TF_CONFIG in its guide to distributed training.

    Attributes:
        addresses: task type -> host:port of each task; equal for all members.
        visible_gpus: what CUDA_VISIBLE_DEVICES becomes; None leaves it alone.
    """

    addresses: dict[str, list[str]]
    task_type: Literal["chief", "worker", "ps"]
    task_index: int
    visible_gpus: str | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this program speaks for the job. Without a task of that type, worker 0 is the chief."""
        chief = "chief" if "chief" in self.addresses else "worker"
        return (self.task_type, self.task_index) == (chief, 0)

    @property
    def tf_config(self) -> str:
        """The value of TF_CONFIG."""
        task = {"type": self.task_type, "index": self.task_index}
        return json.dumps({"cluster": self.addresses, "task": task})


class CodeSource(_Message):
    """A builder of the user's own, already looked up on this worker (see ``shared.user_code``)."""

    name: str
    path: Path  # its folder or .py file
    hashed: Path  # what ``sha256`` covers
    package: str | None = None  # imported by this name; None: from ``path``
    modules: dict[str, str]  # function -> module that has it, relative to the builder
    takes_params: dict[str, bool]  # function -> f(params) or f(**params)
    sha256: str | None = None  # as recorded when the job was submitted


class TrialFacts(_Message):
    """What trial of which study a job is. Its model is kept, not exported.

    Attributes:
        evaluate: whether the study needs the final evaluation.
    """

    study_id: str
    number: int
    params: dict[str, Any]
    evaluate: bool = False


class TrainingRequest(_Message):
    """All that the program needs to know; it reads no environment and no store."""

    job_id: str
    attempt: int
    request_id: str | None = None  # of the request that made the job; these two are for its log
    worker_id: str | None = None
    spec: dict[str, Any]
    run_dir: Path
    tfds_dir: Path
    cache_dir: Path
    data_file: Path | None = None  # the npz, csv or archive, or folder of images, looked up and allowed
    data_files: dict[
        str, list[Path]
    ] = {}  # TFRecord files by the spec's field that names them: tfrecord, test
    data_sha256: str | None = None
    expected_data: str | None = None  # fingerprint that the data must have: a job that is reproduced
    code: list[CodeSource] = []  # the user's own builders that the job names
    source: SourceFiles | None = None  # the model that the job exports or goes on from
    model_file: Path | None = None  # a model of the user's own that it goes on from, looked up and allowed
    trial: TrialFacts | None = None  # None: a job of its own
    resume_dirs: list[
        Path
    ] = []  # run dirs to look for a checkpoint in, first match wins; own run_dir included
    cluster: ClusterTask | None = None  # None: the program is alone

    @property
    def is_chief(self) -> bool:
        """Whether this program writes the run's files: checkpoints, event files, export."""
        return self.cluster is None or self.cluster.is_chief

    @property
    def files_dir(self) -> Path:
        """Where this program's files go: the run dir. Other members of a cluster write what the chief writes, so that
        they never disagree about what comes next, but nobody wants it.
        """
        if self.cluster is None or self.cluster.is_chief:
            return self.run_dir
        return self.members_dir / f"{self.cluster.task_type}-{self.cluster.task_index}"

    @property
    def members_dir(self) -> Path:
        """Of the members other than the chief; the supervisor removes it."""
        return self.cache_dir / "members" / self.job_id


class StageEntered(_Message):
    event: Literal["stage"] = "stage"
    stage: str


class Progress(_Message):
    """Where training stands; sent at most every 0.25 s and at each epoch's ends. Not kept as history."""

    event: Literal["progress"] = "progress"
    epoch: int  # 1-based
    epochs: int
    step: int  # steps done in this epoch
    steps: int  # steps per epoch
    eta_seconds: float | None = None
    steps_per_second: float | None = None
    metrics: dict[str, float] = {}


class EpochEnded(_Message):
    """Metrics at an epoch's end, validation ones prefixed ``val_``; kept as history and as series.

    ``step`` counts optimizer steps since the job's first attempt began. Values may be NaN or infinite.
    """

    event: Literal["epoch"] = "epoch"
    epoch: int  # 1-based
    step: int
    metrics: dict[str, float]
    seconds: float


class MetricsLogged(_Message):
    """Points of series within an epoch; kept as series only. ``values``: name -> value, at ``step``."""

    event: Literal["metrics"] = "metrics"
    epoch: int
    step: int
    values: dict[str, float]


class CheckpointWritten(_Message):
    event: Literal["checkpoint"] = "checkpoint"
    path: str  # relative to the run dir
    epoch: int  # epochs done
    step: int


class Noted(_Message):
    """Facts about the run (devices, versions, parameter count, rows, classes), merged into the job's ``run``."""

    event: Literal["info"] = "info"
    data: dict[str, Any]


class Warned(_Message):
    event: Literal["warning"] = "warning"
    code: str
    message: str


class Finished(_Message):
    """The export lies ready in ``export_dir`` (relative to the run dir), or is None if nothing is published.

    ``lineage`` is what the version's record says beyond the job itself: the model that this one came from.
    """

    event: Literal["finished"] = "finished"
    metrics: dict[str, float]  # final evaluation: test_loss, test_accuracy, ...
    last_metrics: dict[str, float] = {}  # at the end of the last epoch, whichever attempt trained it
    best_value: float | None = None  # of the metric that checkpoint.best monitors
    export_dir: str | None = None
    signatures: dict[str, Any] = {}  # name -> {"inputs": {alias: {"dtype", "shape"}}, "outputs": {...}}
    classes: list[str] | None = None
    epochs: int | None = None  # epochs trained in all, over all attempts; None: it was no training
    steps: int | None = None
    lineage: dict[str, Any] = {}


class Failed(_Message):
    event: Literal["failed"] = "failed"
    code: str
    message: str
    hint: str | None = None
    detail: str | None = None


class Stopped(_Message):
    """SIGTERM was obeyed; ``checkpoint`` is the newest one (relative to the run dir), or None before the first step."""

    event: Literal["stopped"] = "stopped"
    checkpoint: str | None = None


class Alive(_Message):
    """A member of a cluster other than the chief runs; sent every second."""

    event: Literal["alive"] = "alive"


TrainingEvent = Annotated[
    StageEntered
    | Progress
    | EpochEnded
    | MetricsLogged
    | CheckpointWritten
    | Noted
    | Warned
    | Finished
    | Failed
    | Stopped
    | Alive,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[TrainingEvent] = TypeAdapter(TrainingEvent)


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one job's run."""

    root: Path

    @property
    def log(self) -> Path:
        return self.root / "job.log"

    def log_of(self, member: str) -> Path:
        """The log of a cluster's member that is not the chief, such as worker-1."""
        return self.root / f"job.{member}.log"

    def gang_flag(self, token: str) -> Path:
        """A file by which members on other workers know that they see the leader's disk."""
        return self.root / f".gang-{token}"

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def kept(self) -> Path:
        """What exports and later trainings start from; see ``shared.model_sources``."""
        return self.root / "kept"

    @property
    def export(self) -> Path:
        """The SavedModel, laid out as the version folder will be."""
        return self.root / "export"
