"""What a training program is told, put together from a job and this worker's files."""

from __future__ import annotations

from services.worker.code import resolve_code
from services.worker.inputs import resolve_data_file, resolve_data_files, resolve_model_file, resolve_source
from services.worker.protocol import RunDir, TrainingRequest
from shared.jobs import Job
from shared.settings import Settings
from shared.specs import JobSpec
from shared.store import Store


def training_request(
    job: Job, spec: JobSpec, attempt: int, run_dir: RunDir, store: Store, settings: Settings
) -> TrainingRequest:
    """The request of one attempt, with all files looked up and allowed on this worker.

    Raises:
        NotFound, InvalidInput: a file or dataset is gone, or not allowed here.
    """
    data_file, sha256 = resolve_data_file(spec, store, settings)
    home = settings.paths
    resume = [run_dir.root]
    if job.resume_from:
        resume.append(home.runs / job.resume_from)
    return TrainingRequest(
        job_id=job.id,
        attempt=attempt,
        request_id=job.request_id,
        worker_id=job.worker_id,
        spec=job.spec,
        run_dir=run_dir.root,
        tfds_dir=home.tfds,
        cache_dir=home.cache,
        data_file=data_file,
        data_sha256=sha256,
        data_files=resolve_data_files(spec, store, settings),
        expected_data=(job.run.get("reproduces") or {}).get("data"),
        code=resolve_code(job.run.get("code") or {}, settings),
        source=resolve_source(spec, store, settings),
        model_file=resolve_model_file(spec, store, settings),
        resume_dirs=resume,
    )
