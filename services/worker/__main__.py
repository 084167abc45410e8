"""``python -m services.worker``: a Celery worker whose tasks supervise training programs.

Threads, since supervising is waiting; processes are for the programs. TERM and INT are a warm shutdown: running
trainers write a checkpoint and their jobs go back to the queue.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

from services.worker.celery_app import make_app
from services.worker.runtime import Runtime
from shared.errors import ModelyardError
from shared.settings import RUN_JOB_TASK, Settings


def main() -> int:
    """Run until told to stop; exit codes: 0 stopped in good order, 1 could not start."""
    settings = Settings()
    logging.basicConfig(
        level=settings.log_level, format="%(levelname)-7s %(name)s  %(message)s", stream=sys.stderr
    )
    for noisy in ("celery", "kombu", "httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings.paths.create()
    app = make_app(settings)
    try:
        runtime = Runtime(settings)
        runtime.store.ping()
    except ModelyardError as error:
        sys.stderr.write(f"{error.message} {error.hint or ''}\n")
        return 1

    @app.task(name=RUN_JOB_TASK, shared=False)  # type: ignore[untyped-decorator, unused-ignore]
    def run_job(job_id: str) -> None:
        runtime.run_job(job_id)

    def on_ready(**_: Any) -> None:
        logging.getLogger("services.worker").info("listening as %s", runtime.worker_id)

    def on_shutting_down(**_: Any) -> None:
        runtime.stopping.set()

    worker_ready.connect(on_ready, weak=False)
    worker_shutting_down.connect(on_shutting_down, weak=False)
    runtime.start()
    worker = app.Worker(
        pool_cls="threads",
        concurrency=settings.slots,
        loglevel="WARNING",
        hostname=f"modelyard@{runtime.worker_id}",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    try:
        worker.start()
    finally:
        runtime.stopping.set()
        runtime.close()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
