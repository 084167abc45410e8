"""All that lives as long as the worker process: store, preloader, sweeper, heartbeat, watchdog."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from services.worker import members
from services.worker.advance import Advancer
from services.worker.gang_seat import Seats
from services.worker.lifecycle import Attempts
from services.worker.meters import Meters
from services.worker.preloader import Preloader
from services.worker.publish import Publisher
from services.worker.slots import Slots, served_queues
from services.worker.study_sessions import StudySessions
from services.worker.trial import Trials
from shared.errors import ModelyardError, Unavailable
from shared.job_queue import JobQueue
from shared.model_repo import ModelRepo
from shared.serving_client import ServingClient
from shared.serving_config import ServingConfig
from shared.settings import Settings
from shared.store import Store
from shared.sweeper import Sweeper
from shared.tuning.engines import Engines

BEAT_SECONDS = 5.0
DEAF_SECONDS = 30.0
PROBE_SECONDS = 120.0
log = logging.getLogger(__name__)


def new_worker_id() -> str:
    """Host, process, and enough of the time that no other worker ever has it."""
    return f"{socket.gethostname()}-{os.getpid()}-{int(time.time() * 1000) % 10**8}"


class Runtime:
    """Made before Celery starts, closed after it ends."""

    def __init__(self, settings: Settings, worker_id: str) -> None:
        self.settings = settings
        self.host = socket.gethostname()
        self.started_at = time.time()
        self.worker_id = worker_id
        self.store = Store(settings.store_url)
        self.queue = JobQueue(settings.broker_url)
        self.preloader = Preloader(warm=settings.warm)
        self.serving = ServingClient(settings.serving_url)
        self.stopping = threading.Event()
        self.queues = served_queues(settings.queues)
        self.meters = Meters(self.worker_id, settings.slots)
        self._end_metrics = self.meters.serve(settings)
        self.sweeper = Sweeper(self.store, self.queue, every_seconds=settings.sweep_seconds)
        engines = Engines(self.store)
        self.pruner = ThreadPoolExecutor(1, thread_name_prefix="pruner")
        sessions = StudySessions(settings.paths)
        self.studies = Advancer(self.store, self.queue, engines, settings.paths, sessions)
        self.attempts = Attempts(
            settings=settings,
            worker_id=self.worker_id,
            store=self.store,
            publisher=Publisher(
                self.store,
                ModelRepo(settings.paths.models),
                self.serving,
                ServingConfig.of(settings, self.store),
                settings.publish_timeout_seconds,
            ),
            preloader=self.preloader,
            studies=self.studies,
            trials=Trials(self.store, engines, self.pruner, sessions),
            stopping=self.stopping,
            gpus=self._gpus,
            queues=self.queues,
            queue=self.queue,
            meters=self.meters,
        )
        seats = Seats(
            settings=settings,
            worker_id=self.worker_id,
            store=self.store,
            preloader=self.preloader,
            queue=self.queue,
            stopping=self.stopping,
            gpus=self._gpus,
            queues=self.queues,
        )
        self.slots = Slots(self.attempts, self.queue, seats)
        self._busy = 0
        self._busy_lock = threading.Lock()
        self._info: dict[str, Any] = {"warm": settings.warm, **_identity()}
        self._done = threading.Event()
        self._probed = threading.Event()
        self._threads = [
            threading.Thread(target=self._beat, name="heartbeat", daemon=True),
            threading.Thread(target=self._probe, name="probe", daemon=True),
        ]

    def start(self) -> None:
        """Begin; returns at once. TensorFlow is loaded meanwhile, in the preloader's process."""
        self.preloader.warm_up()
        self._end_leases_of_the_dead()
        self.sweeper.start()
        self.studies.start()
        for thread in self._threads:
            thread.start()

    def run_job(self, job_id: str) -> None:
        """What the Celery task does."""
        with self._busy_lock:
            self._busy += 1
            self.meters.busy(self._busy)
        try:
            self.slots.wake(job_id)
        except Unavailable as error:
            # not claimed, or released already; the sweeper sends it again
            log.warning("%s: %s", job_id, error.message)
        finally:
            with self._busy_lock:
                self._busy -= 1
                self.meters.busy(self._busy)

    def close(self) -> None:
        """End in good order: no thread of ours writes after this."""
        self._done.set()
        self._end_metrics()
        self.sweeper.stop()
        self.studies.stop()
        self.pruner.shutdown(cancel_futures=True)
        with contextlib.suppress(ModelyardError):
            self.store.workers.leave(self.worker_id)
        self.serving.close()
        self.queue.close()
        self.store.close()

    def _say_alive(self) -> str | None:
        return self.store.workers.beat(
            self.worker_id,
            host=self.host,
            pid=os.getpid(),
            slots=self.settings.slots,
            started_at=self.started_at,
            info=self._info,
            queues=self.queues,
        )

    def _take_over_drain(self) -> None:
        log.warning(
            "the worker that died here was draining: this one drains too, until POST /workers/ID/undrain"
        )
        self._say_alive()
        self.store.workers.drain(self.worker_id, now=False)
        self.slots.note_draining("finish")

    def _beat(self) -> None:
        idle_since: float | None = None
        recalled = False
        while True:
            try:
                self.slots.note_draining(self._say_alive())
                self.meters.draining(self.slots.draining.is_set())
                if self.settings.alive_file is not None:
                    self.settings.alive_file.touch()
                if not recalled:
                    self.store.gangs.recall()
                    recalled = True
                idle_since = self._watch_for_deafness(idle_since)
            except Unavailable as error:
                log.debug("heartbeat: %s", error.message)
            except Exception:
                log.exception("heartbeat")
            if self._done.wait(BEAT_SECONDS):
                return

    def _watch_for_deafness(self, since: float | None) -> float | None:
        """A consumer that survived a broker's restart without listening again (celery issues 8030, 9054, 10205)
        looks alive and takes nothing. With a free slot, nothing may wait on the queue for long.
        """
        occupied = self._busy >= self.settings.slots or self.stopping.is_set() or self.slots.draining.is_set()
        if occupied or self.queue.depth(*self.queues) == 0:
            return None
        if since is None or self.slots.woken_at > since:
            return time.monotonic()
        if time.monotonic() - since > DEAF_SECONDS:
            log.error(
                "messages wait although a slot is free: this worker is deaf and ends, to be started anew"
            )
            os.kill(os.getpid(), signal.SIGTERM)
            return None
        return since

    def _probe(self) -> None:
        """Learn what devices there are, from a trainer child: this process never loads TensorFlow."""
        try:
            self._info = {**self._info, **self.preloader.probe()}
            log.info("ready: %s", json.dumps(self._info.get("devices", [])))
        except Exception as error:
            log.warning("can't list devices: %s", error)
        finally:
            self._probed.set()

    def _gpus(self) -> list[str]:
        self._probed.wait(PROBE_SECONDS)
        found = sum(device.get("type") == "GPU" for device in self._info.get("devices", []))
        return members.gpu_names(found, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def _end_leases_of_the_dead(self) -> None:
        """A worker that was killed and started again here need not wait for its own old leases to run out."""
        try:
            mine = _identity()
            dead = [
                worker
                for worker in self.store.workers.find()
                if worker.host == self.host
                and {key: worker.info.get(key) for key in mine} == mine
                and (worker.pid == os.getpid() or not Path(f"/proc/{worker.pid}").exists())
            ]
            ids = [worker.id for worker in dead]
            ended = self.store.claims.expire_leases(ids) + self.store.gangs.expire(ids)
            if any(worker.draining and worker.queues == self.queues for worker in dead):
                # a crash does not end a drain; whoever stops a worker in good order and starts it again does
                self._take_over_drain()
            for worker in dead:
                self.store.workers.leave(worker.id)
            if ended:
                log.warning("%d job(s) of a worker that died here are put back", ended)
        except Unavailable as error:
            log.warning("%s", error.message)


def _identity() -> dict[str, str]:
    """What tells whether a process id seen elsewhere means anything here: same boot, same pid namespace."""
    identity = {}
    for key, path in (("boot", "/proc/sys/kernel/random/boot_id"), ("pid_namespace", "/proc/self/ns/pid")):
        try:
            target = Path(path)
            identity[key] = str(os.readlink(target)) if target.is_symlink() else target.read_text().strip()
        except OSError:
            identity[key] = ""
    return identity
