"""The client for asyncio: the calls of ``sync``, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from modelyard.client import routes
from modelyard.client.aio_job import AsyncJob
from modelyard.client.call import Call, check, unreachable
from modelyard.client.events import READ_SECONDS
from modelyard.client.saving import archive_kind, whole_file
from modelyard.client.settings import default_url, key_header
from shared.keys import Role
from shared.specs import JobSpec
from shared.views import (
    AuditList,
    BuilderList,
    CleanUpView,
    DatasetList,
    DatasetView,
    Health,
    JobList,
    KeyList,
    KeyView,
    LabelList,
    ModelEventList,
    ModelList,
    ModelView,
    NewKeyView,
    PlanView,
    PredictResponse,
    ProjectList,
    ProjectView,
    SessionView,
    VersionList,
    VersionView,
    WorkerList,
    WorkerView,
)

T = TypeVar("T")


class AsyncClient:
    """Talks to one Modelyard. Close it, or use it in an ``async with`` block.

    Args:
        url: the server's address; default: MODELYARD_URL, else http://127.0.0.1:8000.
        api_key: default: MODELYARD_API_KEY, else what is in the file MODELYARD_API_KEY_FILE, else none.
        timeout: seconds for one answer; predictions and uploads have longer ones of their own.
        transport: for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url or default_url()
        self._timeout = timeout
        self._http = httpx.AsyncClient(base_url=self.url, headers=key_header(api_key), transport=transport)
        self.jobs = AsyncJobs(self)
        self.models = AsyncModels(self)
        self.datasets = AsyncDatasets(self)
        self.keys = AsyncKeys(self)

    async def predict(
        self,
        model: str,
        *,
        instances: Any = None,
        inputs: Any = None,
        images: Sequence[routes.Image] | None = None,
        version: int | None = None,
        label: str | None = None,
        signature_name: str | None = None,
    ) -> PredictResponse:
        """Ask a served model. Give one of ``instances`` (a list or array of rows), ``inputs`` (by column) or
        ``images`` (files, or their bytes).
        """
        if images is not None:
            return await self.send(routes.predict_images(model, images, version=version, label=label))
        return await self.send(
            routes.predict(
                {
                    "model": model,
                    "version": version,
                    "label": label,
                    "signature_name": signature_name,
                    "instances": instances,
                    "inputs": inputs,
                }
            )
        )

    async def builders(self) -> BuilderList:
        """Builders that jobs may name, built in and the user's own."""
        return await self.send(routes.builders())

    async def clean_up(self, policy: Mapping[str, Any], *, dry_run: bool = True) -> CleanUpView:
        """Remove what a ``shared.specs.retention.RetentionPolicy`` allows to go; with ``dry_run``, only say what."""
        return await self.send(routes.clean_up(policy, dry_run=dry_run))

    async def workers(self) -> WorkerList:
        """Workers that were heard of, with devices and versions."""
        return await self.send(routes.workers())

    async def drain(self, worker_id: str, *, now: bool = False) -> WorkerView:
        """Have a worker take no more jobs; with ``now``, give back those it has."""
        return await self.send(routes.drain(worker_id, now=now))

    async def undrain(self, worker_id: str) -> WorkerView:
        """Have a drained worker take jobs again."""
        return await self.send(routes.undrain(worker_id))

    async def projects(self) -> ProjectList:
        """Projects with their limits, and what they have waiting and running."""
        return await self.send(routes.projects())

    async def set_project(self, name: str, *, max_running: int | None) -> ProjectView:
        """Limit how many jobs of a project run at once; None: no limit."""
        return await self.send(routes.set_project(name, max_running))

    async def whoami(self) -> SessionView:
        """Which key is used, and its role."""
        return await self.send(routes.whoami())

    async def audit(
        self, *, limit: int | None = None, after: int | None = None, key: str | None = None
    ) -> AuditList:
        """Who changed what, newest first; for admins. ``key``: only of the key with this id."""
        return await self.send(routes.audit(limit, after, key))

    async def health(self) -> Health:
        """Is the API there?"""
        return await self.send(routes.health())

    async def ready(self) -> Health:
        """Can it do its work? ``checks`` says which part can't."""
        return await self.send(routes.readiness())

    async def send(self, call: Call[T]) -> T:
        """Send one call, again where that is safe.

        Raises:
            ApiError: the server refused.
            Unreachable: no answer.
        """
        tries = 0
        while True:
            tries += 1
            request = self._http.build_request(call.method, call.path, **call.arguments(self._timeout))
            failure: httpx.Response | httpx.TransportError
            try:
                failure = response = await self._http.send(request)
            except httpx.TransportError as error:
                failure = error
            pause = call.pause_before_retry(tries, failure)
            if pause is None:
                if isinstance(failure, httpx.TransportError):
                    raise unreachable(self.url, failure) from None
                return call.read(check(response) if call.checked else response)
            await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def stream(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """An answer that is read while it arrives. Sent once."""
        arguments = call.arguments(self._timeout)
        arguments["timeout"] = httpx.Timeout(READ_SECONDS, connect=5.0)
        async with self._http.stream(call.method, call.path, **arguments) as response:
            if response.status_code >= 400:
                await response.aread()
            yield check(response)

    async def save(self, call: Call[Any], path: str | os.PathLike[str]) -> Path:
        """Write an answer to a file, piece by piece; the file appears when it is whole.

        Raises:
            ApiError, Unreachable: as ``send`` does.
            InvalidInput: the file can't be written.
        """
        target = Path(path)
        try:
            async with self.stream(call) as response:
                with whole_file(target) as file:
                    async for piece in response.aiter_bytes():
                        file.write(piece)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from None
        return target

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncJobs:
    """``client.jobs``."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def submit(
        self, spec: JobSpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> AsyncJob:
        """Store a job and have it run. A lost answer is asked for again without making a second job."""
        return AsyncJob(self._client, await self._client.send(routes.submit(spec, idempotency_key)))

    async def plan(self, spec: JobSpec | Mapping[str, Any]) -> PlanView:
        """The job as it would run; nothing is stored."""
        return await self._client.send(routes.plan(spec))

    async def get(self, job_id: str) -> AsyncJob:
        return AsyncJob(self._client, await self._client.send(routes.job(job_id)))

    async def list(self, **filters: Any) -> JobList:
        """One page; filters: state, kind, model, label ("key=value"), limit, after."""
        return await self._client.send(routes.jobs(**filters))


class AsyncModels:
    """``client.models``."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, *, limit: int | None = None, after: str | None = None) -> ModelList:
        return await self._client.send(routes.models(limit, after))

    async def get(self, name: str) -> ModelView:
        return await self._client.send(routes.one_model(name))

    async def versions(self, name: str, *, limit: int | None = None, after: int | None = None) -> VersionList:
        return await self._client.send(routes.versions(name, limit, after))

    async def version(self, name: str, number: int) -> VersionView:
        return await self._client.send(routes.version(name, number))

    async def labels(self, name: str) -> LabelList:
        """Where each label sends its requests, and what it was before."""
        return await self._client.send(routes.labels(name))

    async def set_label(self, name: str, label: str, version: int | None = None, **route: Any) -> ModelView:
        """Send a label's requests to a version, or by ``split``, ``shadow`` and ``guard``, as the HTTP API does."""
        given = {"version": version, **route}
        sent = {key: value for key, value in given.items() if value is not None}
        return await self._client.send(routes.set_label(name, label, sent))

    async def rollback(self, name: str, label: str | None = None, version: int | None = None) -> ModelView:
        """Go back: a label to what it was before, a model without labels to the version before."""
        return await self._client.send(routes.rollback(name, label, version))

    async def events(self, name: str, *, after: int = 0, limit: int | None = None) -> ModelEventList:
        """What happened to the model's labels, oldest first."""
        return await self._client.send(routes.model_events(name, after, limit))

    async def delete_label(self, name: str, label: str) -> None:
        """Remove a label; the version it named stays."""
        await self._client.send(routes.delete_label(name, label))

    async def delete_version(self, name: str, version: int) -> None:
        """Remove a version and its files; refused while a label names it."""
        await self._client.send(routes.delete_version(name, version))

    async def download(self, name: str, version: int, path: str | os.PathLike[str]) -> Path:
        """Save a version, a SavedModel with what lies beside it, as ``path``: a .zip or .tar.gz."""
        return await self._client.save(routes.version_archive(name, version, archive_kind(path)), path)


class AsyncDatasets:
    """``client.datasets``."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def upload(self, path: str | os.PathLike[str], *, name: str | None = None) -> DatasetView:
        """Send a csv or npz file, read in pieces; name: default the file's own."""
        file = Path(path)
        with file.open("rb") as source:  # noqa: ASYNC230 (local disk; httpx reads it in pieces)
            return await self._client.send(routes.upload(name or file.stem, file.name, source))

    async def list(self, *, limit: int | None = None, after: str | None = None) -> DatasetList:
        return await self._client.send(routes.datasets(limit, after))

    async def get(self, dataset_id: str) -> DatasetView:
        return await self._client.send(routes.dataset(dataset_id))

    async def delete(self, dataset_id: str) -> None:
        await self._client.send(routes.delete_dataset(dataset_id))


class AsyncKeys:
    """``client.keys``, for admins."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(
        self,
        role: Role | str,
        *,
        name: str | None = None,
        project: str | None = None,
        expires_in_seconds: int | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> NewKeyView:
        """Make a key. Its ``key`` is in this answer and nowhere else."""
        given = {
            "role": str(role),
            "name": name,
            "project": project,
            "expires_in_seconds": expires_in_seconds,
            "limits": dict(limits) if limits else None,
        }
        wanted = {key: value for key, value in given.items() if value is not None}
        return await self._client.send(routes.create_key(wanted))

    async def list(self, *, limit: int | None = None, after: str | None = None) -> KeyList:
        return await self._client.send(routes.keys(limit, after))

    async def revoke(self, key_id: str) -> KeyView:
        """Make a key worthless, by its id or its prefix; within 5 seconds everywhere."""
        return await self._client.send(routes.revoke_key(key_id))
