"""``python -m services.worker``: a Celery worker whose tasks supervise training programs.

Threads, since supervising is waiting; processes are for the programs. TERM and INT are a warm shutdown: running
trainers write a checkpoint and their jobs go back to the queue.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from services.worker.celery_app import make_app
from services.worker.ears import Ears
from services.worker.runtime import Runtime, new_worker_id
from shared.errors import ModelyardError
from shared.job_queue import broker_queue
from shared.logs import set_up
from shared.settings import RUN_JOB_TASK, Settings

LOOK_SECONDS = 0.03


def keep_logging(**_: Any) -> None:
    """A receiver of this signal keeps Celery from changing the logging that ``main`` has set up."""


def main() -> int:
    """Run until told to stop; exit codes: 0 stopped in good order, 1 could not start."""
    settings = Settings()
    worker_id = new_worker_id()
    set_up(settings.log_level, settings.log_format, part="worker", worker_id=worker_id)
    # Celery warns of root because of pickle, which we never accept
    warnings.filterwarnings("ignore", category=SecurityWarning)
    for noisy in ("celery", "kombu", "httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings.paths.create()
    app = make_app(settings)
    try:
        runtime = Runtime(settings, worker_id)
        runtime.store.ping()
    except ModelyardError as error:
        sys.stderr.write(f"{error.message} {error.hint or ''}\n")
        return 1

    @app.task(name=RUN_JOB_TASK, shared=False)  # type: ignore[untyped-decorator, unused-ignore]
    def run_job(job_id: str) -> None:
        runtime.run_job(job_id)

    def on_ready(sender: Any, **_: Any) -> None:
        # Without prefetch, nothing tells the consumer that a slot has become free: it looks when its event loop
        # turns, which may take a second. This turns it often enough for a job to start at once.
        sender.hub.call_repeatedly(LOOK_SECONDS, lambda: None)
        runtime.slots.listen_through(Ears(sender, runtime.queues))
        logging.getLogger("services.worker").info("listening as %s", runtime.worker_id)

    def on_shutting_down(**_: Any) -> None:
        runtime.stopping.set()

    setup_logging.connect(keep_logging, weak=False)
    worker_ready.connect(on_ready, weak=False)
    worker_shutting_down.connect(on_shutting_down, weak=False)
    runtime.start()
    worker = app.Worker(
        pool_cls="threads",
        concurrency=settings.slots,
        queues=[broker_queue(name) for name in runtime.queues],
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
