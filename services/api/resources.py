"""Everything a running application holds, built by its lifespan and handed to routes as dependencies."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx
from anyio import to_thread

from services.api.access.opening import Access, open_access
from services.api.artifacts import Hashes
from services.api.model_server import CONNECT_SECONDS, ModelServer
from services.api.studies import Studies
from services.api.submission import Submission
from services.api.telemetry import Telemetry
from services.api.traffic import TrafficMoves
from services.api.uploads import Uploads
from services.api.watch import JobWatch
from shared.job_queue import JobQueue
from shared.model_repo import ModelRepo
from shared.serving_client import ServingClient
from shared.serving_config import ServingConfig, Settler
from shared.settings import Settings
from shared.store import Store
from shared.sweeper import Sweeper

log = logging.getLogger(__name__)

POOL_CONNECTIONS = 200


@dataclass(frozen=True, slots=True)
class Resources:
    """Shared by all requests of one application."""

    settings: Settings
    access: Access
    store: Store
    queue: JobQueue
    repo: ModelRepo
    serving: ServingClient
    serving_config: ServingConfig
    model_server: ModelServer
    traffic: TrafficMoves
    tensorboard: httpx.AsyncClient | None
    submission: Submission
    studies: Studies
    uploads: Uploads
    watch: JobWatch
    telemetry: Telemetry
    hashes: Hashes

    @property
    def alive_within(self) -> float:
        """Seconds after which a worker that was not heard of counts as gone."""
        return self.settings.alive_within


@asynccontextmanager
async def open_resources(settings: Settings, telemetry: Telemetry) -> AsyncIterator[Resources]:
    """Build all of it, sweep while it is open, close it in the opposite order."""
    async with AsyncExitStack() as stack:
        settings.paths.create()
        store = Store(settings.store_url)
        stack.callback(store.close)
        access = await open_access(settings, store)
        stack.push_async_callback(access.aclose)
        queue = JobQueue(settings.broker_url)
        stack.callback(queue.close)
        serving = ServingClient(settings.serving_url)
        stack.callback(serving.close)
        forward = await stack.enter_async_context(
            _client(settings.serving_url, settings.predict_timeout_seconds)
        )
        model_server = ModelServer(settings, store, forward, telemetry)
        stack.push_async_callback(model_server.aclose)
        tensorboard = None
        if settings.tensorboard_url is not None:
            tensorboard = await stack.enter_async_context(_client(settings.tensorboard_url, 120.0))
        watch = JobWatch(store)
        stack.callback(watch.close)
        uploads = Uploads(store, settings.paths.datasets, max_mb=settings.max_upload_mb)
        await to_thread.run_sync(uploads.sweep_leftovers)
        sweeper = Sweeper(store, queue, every_seconds=settings.sweep_seconds)
        sweeper.start()
        stack.callback(sweeper.stop)
        serving_config = ServingConfig.of(settings, store)
        settler = Settler(serving_config, store, every_seconds=settings.sweep_seconds)
        settler.start()
        stack.callback(settler.stop)
        resources = Resources(
            settings=settings,
            access=access,
            store=store,
            queue=queue,
            repo=ModelRepo(settings.paths.models),
            serving=serving,
            serving_config=serving_config,
            model_server=model_server,
            traffic=TrafficMoves(
                store,
                serving_config,
                serving,
                model_server,
                timeout_seconds=settings.publish_timeout_seconds,
                keep_waiting=lambda: not watch.closed,
            ),
            tensorboard=tensorboard,
            submission=Submission(store, queue, settings),
            studies=Studies(store),
            uploads=uploads,
            watch=watch,
            telemetry=telemetry,
            hashes=Hashes(),
        )
        telemetry.watch(
            store,
            queue,
            alive_within=resources.alive_within,
            shared=settings.share_port,
            kept_seconds=settings.metrics_kept_seconds,
        )
        yield resources


def _client(base_url: str, timeout: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=POOL_CONNECTIONS, max_keepalive_connections=POOL_CONNECTIONS),
        verify=base_url.startswith("https:"),  # reading all certificates for a plain address takes 50 ms
        trust_env=False,  # a proxy for the outside world has no business between our own processes
    )
