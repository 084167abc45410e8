"""Wakes workers through queues on the broker, one for each queue of jobs.

A message names a job, but a worker that gets it takes whichever job comes next (``shared.store.order``): so one message
too many is harmless, and one for each job that may be claimed is enough.
"""

from __future__ import annotations

import time
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.errors import Unavailable
from shared.settings import DEFAULT_JOB_QUEUE, DEFAULT_QUEUE, RUN_JOB_TASK

# Connecting to a broker that is down must not hold up a request: the sweeper sends later.
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 5.0
PAUSE_AFTER_FAILURE_SECONDS = 2.0


def broker_options() -> dict[str, Any]:
    """Celery settings for the Redis transport that producer and worker share.

    ``global_keyprefix`` keeps our keys apart in a Redis that others use too. The visibility timeout plays no part in
    correctness, since messages are acknowledged before the work begins; a lease in the store recovers lost work.
    """
    return {
        "broker_transport_options": {
            "global_keyprefix": "modelyard:",
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            "retry_on_timeout": False,
            "max_retries": 0,
        },
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_default_queue": DEFAULT_QUEUE,
        "broker_pool_acquire_timeout": 5,
        "broker_connection_timeout": CONNECT_SECONDS,
        "task_publish_retry": False,
        "enable_utc": True,
    }


def broker_queue(name: str) -> str:
    """What a queue of jobs is called on the broker."""
    return DEFAULT_QUEUE if name == DEFAULT_JOB_QUEUE else f"{DEFAULT_QUEUE}.{name}"


class JobQueue:
    """Sends job ids through Celery by the task's name; the sender never imports the worker. Thread-safe."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("modelyard-producer", broker=broker_url, set_as_current=False)
        self._app.conf.update(broker_options())
        self._down_until = 0.0

    def send(self, job_id: str, queue: str = DEFAULT_JOB_QUEUE) -> None:
        """Wake a worker that serves ``queue``, on account of a job.

        Raises:
            Unavailable: the broker does not answer. For two seconds after a failure it is not even asked.
        """
        if time.monotonic() < self._down_until:
            raise Unavailable("The broker did not answer a moment ago.", code="queue_unavailable")
        try:
            self._app.send_task(RUN_JOB_TASK, args=[job_id], queue=broker_queue(queue), retry=False)
        except (OperationalError, RedisError, OSError) as error:
            self._down_until = time.monotonic() + PAUSE_AFTER_FAILURE_SECONDS
            raise Unavailable(f"The broker does not answer: {error}", code="queue_unavailable") from error

    def depth(self, *queues: str) -> int:
        """Messages waiting, in the default queue or in all of ``queues``.

        Raises:
            Unavailable: the broker does not answer.
        """
        try:
            with self._app.connection_for_read() as connection:
                client = connection.default_channel.client
                return sum(int(client.llen(broker_queue(name))) for name in queues or (DEFAULT_JOB_QUEUE,))
        except (OperationalError, RedisError, OSError) as error:
            raise Unavailable(f"The broker does not answer: {error}", code="queue_unavailable") from error

    def close(self) -> None:
        """Close the connections."""
        self._app.close()
