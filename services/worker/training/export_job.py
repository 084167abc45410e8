"""A job that writes a trained model in other formats: load, write, load back, compare, format by format."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.protocol import Finished, RunDir, StageEntered, TrainingRequest
from services.worker.training import beside, ending, kept, manifest, sources
from services.worker.training.emitter import Emitter
from services.worker.training.export import TOLERANCE, answers_of, difference
from services.worker.training.failures import TrainingFailed
from services.worker.training.formats import Writer
from services.worker.training.sources import SourceModel
from services.worker.training.stopping import StopSignal
from services.worker.training.timings import Timings
from services.worker.training.user_code import Code
from shared.specs import ExportJob, parse_job
from shared.specs.export import file_stem

_OTHER_MACHINE = (
    0.01  # a GPU computes convolutions in fewer bits than a CPU, and other libraries in another order
)


@dataclass
class ExportRun:
    """One export job from its request to its files, stage by stage."""

    request: TrainingRequest
    emit: Emitter
    stop: StopSignal
    timings: Timings

    def run(self) -> Finished:
        """Go through all stages.

        Raises:
            TrainingFailed, or any error of the libraries: the job has failed.
            StopRequested: SIGTERM.
        """
        job = self._parsed()
        files = self.request.source
        if files is None:
            raise TrainingFailed("request_invalid", "the request names no model to export")
        run_dir = RunDir(self.request.run_dir)
        self._stage("loading")
        # the answers must not depend on the machine, and another job may have the GPU
        tf.config.set_visible_devices([], "GPU")
        Code(self.request.code).load_all()  # a model of the user's own has classes of theirs
        source = sources.load(files)
        expected = _expected(source)
        self.emit.note(
            source=files.lineage,
            versions={
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
            },
            model={"name": source.model.name, "parameters": source.model.count_params()},
        )
        self._stage("exporting")
        shutil.rmtree(run_dir.export, ignore_errors=True)  # of an earlier attempt
        run_dir.export.mkdir(parents=True)
        writer = Writer(source, expected, run_dir.export, list(job.signatures) if job.signatures else None)
        proofs: dict[str, Any] = {}
        for item in job.formats:
            self.stop.check()
            proof = writer.write(item)
            proofs[file_stem(item)] = {"files": proof.files, "difference": proof.difference, **proof.notes}
            self.timings.mark(file_stem(item))
            said = f"{file_stem(item)}: {', '.join(proof.files)}, difference {proof.difference:.2g}"
            print(said, flush=True)  # noqa: T201 - job log
        writer.close()
        metrics = source.kept.get("metrics") or {}
        kept.write_json(
            run_dir.export / "export.json",
            {**source.facts.as_dict(), "from": files.lineage, "formats": proofs, "metrics": metrics},
        )
        if job.publish is not None:
            self._make_publishable(run_dir.export / "saved_model", source, expected, writer.described)
        self.emit.note(export=proofs, rows_compared=len(expected), timings=self.timings.marks)
        return Finished(
            # a checkpoint is not what was evaluated at the end of training
            metrics=metrics if source.checkpoint is None and files.checkpoint is None else {},
            export_dir=str(Path(run_dir.export.name) / "saved_model") if writer.described else None,
            signatures=writer.described,
            classes=source.facts.classes,
            lineage={"source": files.lineage, "data_fingerprint": source.facts.data.get("fingerprint")},
        )

    def newest_checkpoint(self) -> str | None:
        """An export has none: it begins anew."""
        return None

    def note_gpu_memory(self) -> None:
        """An export uses no GPU."""

    def _parsed(self) -> ExportJob:
        try:
            job = parse_job(self.request.spec)
        except ValueError as error:
            raise TrainingFailed("request_invalid", f"the job's spec can't be read: {error}") from error
        if not isinstance(job, ExportJob):
            raise TrainingFailed("request_invalid", f"a job of kind {job.kind!r} is no export")
        return job

    def _stage(self, name: str) -> None:
        self.stop.check()
        self.timings.mark(name)
        self.emit(StageEntered(stage=name))

    def _make_publishable(
        self, saved_model: Path, source: SourceModel, expected: Any, signatures: dict[str, Any]
    ) -> None:
        golden = replace(source.golden, answers=expected)
        more = {
            "job": self.request.job_id,
            "signatures": signatures,
            "metrics": source.kept.get("metrics") or {},
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        }
        manifest.write(saved_model, source.facts, **more)
        folder = self.request.run_dir / "kept"
        kept.begin(folder, source.model, source.facts, golden)
        kept.finish(folder, source.model, source.facts, golden, **more)
        if source.file is not None:  # it has the optimizer's state, which the model in memory has not
            original = source.file
            kept.in_place(folder / kept.MODEL, lambda path: shutil.copyfile(original, path))
        ending.share(folder, saved_model / beside.FOLDER)
        beside.write(saved_model, source.model, source.facts, golden, signatures, self.emit.warn)


def _expected(source: SourceModel) -> Any:
    """The answers that every format is compared with: the training program's own, if this machine gives the same.

    Raises:
        TrainingFailed: export_mismatch: the model, as it is loaded here, answers something else than in training.
    """
    found = answers_of(source.model, source.facts, source.golden.rows)
    known = source.golden.answers
    if known is None:
        return found
    worst = difference(found, known)
    if TOLERANCE < worst <= _OTHER_MACHINE:
        return found
    if not worst <= TOLERANCE and np.isfinite(known).all():
        raise TrainingFailed(
            "export_mismatch",
            f"The model as it is loaded here answers otherwise than when it was trained, by {worst:.2g}.",
            "Was it trained on another machine or with other versions? The source's run facts have them.",
        )
    return known
