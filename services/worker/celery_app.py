"""The Celery app. It carries ids from the queue to ``Attempts.run`` and knows nothing else."""

from __future__ import annotations

from celery import Celery

from shared.job_queue import broker_options
from shared.settings import Settings


def make_app(settings: Settings) -> Celery:
    """A Celery app for one worker process; see facts on each choice in docs/adr/0003."""
    app = Celery("modelyard", broker=settings.broker_url, set_as_current=False)
    app.conf.update(broker_options())
    app.conf.update(
        task_acks_late=False,  # leases recover lost work; late acks on Redis run long tasks twice
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # a message waits on the queue, where an idle worker finds it
        worker_cancel_long_running_tasks_on_connection_loss=False,  # a broker's blip must not end a training
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # revoke(terminate) kills processes, maybe another task's
    )
    return app
