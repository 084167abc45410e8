"""The end of a training: what the run keeps, the SavedModel that may be published, and what goes beside it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from services.worker.protocol import Finished, RunDir, TrainingRequest
from services.worker.training import beside, kept, manifest
from services.worker.training.emitter import Emitter
from services.worker.training.export import answers_of, export
from services.worker.training.kept import Golden
from services.worker.training.model_facts import ModelFacts
from shared.specs import TrainJob


def end(
    request: TrainingRequest,
    job: TrainJob,
    model: keras.Model,
    facts: ModelFacts,
    golden: Golden,
    metrics: dict[str, float],
    emit: Emitter,
) -> Finished:
    """Keep the trained model, and write and prove its SavedModel.

    Raises:
        TrainingFailed: export_mismatch.
        OSError: the disk is full.
    """
    run_dir = RunDir(request.run_dir)
    if request.trial is not None:
        return _kept_only(request, model, facts, golden, metrics)
    golden = replace(golden, answers=answers_of(model, facts, golden.rows))
    exported = export(model, facts, golden.rows, run_dir.export, expected=golden.answers)
    more: dict[str, Any] = {
        "job": request.job_id,
        "signatures": exported.signatures,
        "metrics": metrics,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    }
    kept.finish(run_dir.kept, model, facts, golden, **more)
    manifest.write(run_dir.export, facts, **more)
    if job.publish is not None:
        share(run_dir.kept, run_dir.export / beside.FOLDER)
        beside.write(run_dir.export, model, facts, golden, exported.signatures, emit.warn)
    emit.note(export={"largest_difference": exported.largest_difference})
    return Finished(
        metrics=metrics,
        export_dir=run_dir.export.name,
        signatures=exported.signatures,
        classes=facts.classes,
        lineage={"source": _source(request)} if _source(request) else {},
    )


def _kept_only(
    request: TrainingRequest,
    model: keras.Model,
    facts: ModelFacts,
    golden: Golden,
    metrics: dict[str, float],
) -> Finished:
    """A trial's end: its model is kept; what is published of a study is exported from there, once."""
    golden = replace(golden, answers=answers_of(model, facts, golden.rows))
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    kept.finish(
        RunDir(request.run_dir).kept,
        model,
        facts,
        golden,
        job=request.job_id,
        metrics=metrics,
        versions=versions,
    )
    return Finished(metrics=metrics, lineage={"source": _source(request)} if _source(request) else {})


def _source(request: TrainingRequest) -> dict[str, Any] | None:
    """The model that this one began as."""
    if request.source is not None:
        return request.source.lineage
    return {"file": str(request.model_file)} if request.model_file is not None else None


def share(source: Path, target: Path) -> None:
    """Have the files of ``source`` in ``target`` too, without copying them where the file system can do that."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if not file.is_file() or file.name.startswith("."):
            continue
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)
