"""The client for ordinary code."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from modelyard.client import routes
from modelyard.client.call import Call, check, unreachable
from modelyard.client.events import READ_SECONDS
from modelyard.client.job import Job
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


class Client:
    """Talks to one Modelyard. Thread-safe; close it, or use it in a ``with`` block.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url or default_url()
        self._timeout = timeout
        self._http = httpx.Client(base_url=self.url, headers=key_header(api_key), transport=transport)
        self.jobs = Jobs(self)
        self.models = Models(self)
        self.datasets = Datasets(self)
        self.keys = Keys(self)

    def predict(
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
            return self.send(routes.predict_images(model, images, version=version, label=label))
        return self.send(
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

    def builders(self) -> BuilderList:
        """Builders that jobs may name, built in and the user's own."""
        return self.send(routes.builders())

    def clean_up(self, policy: Mapping[str, Any], *, dry_run: bool = True) -> CleanUpView:
        """Remove what a ``shared.specs.retention.RetentionPolicy`` allows to go; with ``dry_run``, only say what."""
        return self.send(routes.clean_up(policy, dry_run=dry_run))

    def workers(self) -> WorkerList:
        """Workers that were heard of, with devices and versions."""
        return self.send(routes.workers())

    def drain(self, worker_id: str, *, now: bool = False) -> WorkerView:
        """Have a worker take no more jobs; with ``now``, give back those it has."""
        return self.send(routes.drain(worker_id, now=now))

    def undrain(self, worker_id: str) -> WorkerView:
        """Have a drained worker take jobs again."""
        return self.send(routes.undrain(worker_id))

    def projects(self) -> ProjectList:
        """Projects with their limits, and what they have waiting and running."""
        return self.send(routes.projects())

    def set_project(self, name: str, *, max_running: int | None) -> ProjectView:
        """Limit how many jobs of a project run at once; None: no limit."""
        return self.send(routes.set_project(name, max_running))

    def whoami(self) -> SessionView:
        """Which key is used, and its role."""
        return self.send(routes.whoami())

    def audit(
        self, *, limit: int | None = None, after: int | None = None, key: str | None = None
    ) -> AuditList:
        """Who changed what, newest first; for admins. ``key``: only of the key with this id."""
        return self.send(routes.audit(limit, after, key))

    def health(self) -> Health:
        """Is the API there?"""
        return self.send(routes.health())

    def ready(self) -> Health:
        """Can it do its work? ``checks`` says which part can't."""
        return self.send(routes.readiness())

    def send(self, call: Call[T]) -> T:
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
                failure = response = self._http.send(request)
            except httpx.TransportError as error:
                failure = error
            pause = call.pause_before_retry(tries, failure)
            if pause is None:
                if isinstance(failure, httpx.TransportError):
                    raise unreachable(self.url, failure) from None
                return call.read(check(response) if call.checked else response)
            time.sleep(pause)

    @contextlib.contextmanager
    def stream(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """An answer that is read while it arrives. Sent once."""
        arguments = call.arguments(self._timeout)
        arguments["timeout"] = httpx.Timeout(READ_SECONDS, connect=5.0)
        with self._http.stream(call.method, call.path, **arguments) as response:
            if response.status_code >= 400:
                response.read()
            yield check(response)

    def save(self, call: Call[Any], path: str | os.PathLike[str]) -> Path:
        """Write an answer to a file, piece by piece; the file appears when it is whole.

        Raises:
            ApiError, Unreachable: as ``send`` does.
            InvalidInput: the file can't be written.
        """
        target = Path(path)
        try:
            with self.stream(call) as response, whole_file(target) as file:
                for piece in response.iter_bytes():
                    file.write(piece)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from None
        return target

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Jobs:
    """``client.jobs``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, spec: JobSpec | Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Store a job and have it run. A lost answer is asked for again without making a second job."""
        return Job(self._client, self._client.send(routes.submit(spec, idempotency_key)))

    def plan(self, spec: JobSpec | Mapping[str, Any]) -> PlanView:
        """The job as it would run; nothing is stored."""
        return self._client.send(routes.plan(spec))

    def get(self, job_id: str) -> Job:
        return Job(self._client, self._client.send(routes.job(job_id)))

    def list(self, **filters: Any) -> JobList:
        """One page; filters: state, kind, model, label ("key=value"), limit, after."""
        return self._client.send(routes.jobs(**filters))


class Models:
    """``client.models``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, *, limit: int | None = None, after: str | None = None) -> ModelList:
        return self._client.send(routes.models(limit, after))

    def get(self, name: str) -> ModelView:
        return self._client.send(routes.one_model(name))

    def versions(self, name: str, *, limit: int | None = None, after: int | None = None) -> VersionList:
        return self._client.send(routes.versions(name, limit, after))

    def version(self, name: str, number: int) -> VersionView:
        return self._client.send(routes.version(name, number))

    def labels(self, name: str) -> LabelList:
        """Where each label sends its requests, and what it was before."""
        return self._client.send(routes.labels(name))

    def set_label(self, name: str, label: str, version: int | None = None, **route: Any) -> ModelView:
        """Send a label's requests to a version, or by ``split``, ``shadow`` and ``guard``, as the HTTP API does."""
        given = {"version": version, **route}
        sent = {key: value for key, value in given.items() if value is not None}
        return self._client.send(routes.set_label(name, label, sent))

    def rollback(self, name: str, label: str | None = None, version: int | None = None) -> ModelView:
        """Go back: a label to what it was before, a model without labels to the version before."""
        return self._client.send(routes.rollback(name, label, version))

    def events(self, name: str, *, after: int = 0, limit: int | None = None) -> ModelEventList:
        """What happened to the model's labels, oldest first."""
        return self._client.send(routes.model_events(name, after, limit))

    def delete_label(self, name: str, label: str) -> None:
        """Remove a label; the version it named stays."""
        self._client.send(routes.delete_label(name, label))

    def delete_version(self, name: str, version: int) -> None:
        """Remove a version and its files; refused while a label names it."""
        self._client.send(routes.delete_version(name, version))

    def download(self, name: str, version: int, path: str | os.PathLike[str]) -> Path:
        """Save a version, a SavedModel with what lies beside it, as ``path``: a .zip or .tar.gz."""
        return self._client.save(routes.version_archive(name, version, archive_kind(path)), path)


class Datasets:
    """``client.datasets``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def upload(self, path: str | os.PathLike[str], *, name: str | None = None) -> DatasetView:
        """Send a csv or npz file, read in pieces; name: default the file's own."""
        file = Path(path)
        with file.open("rb") as source:
            return self._client.send(routes.upload(name or file.stem, file.name, source))

    def list(self, *, limit: int | None = None, after: str | None = None) -> DatasetList:
        return self._client.send(routes.datasets(limit, after))

    def get(self, dataset_id: str) -> DatasetView:
        return self._client.send(routes.dataset(dataset_id))

    def delete(self, dataset_id: str) -> None:
        self._client.send(routes.delete_dataset(dataset_id))


class Keys:
    """``client.keys``, for admins."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
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
        return self._client.send(routes.create_key(wanted))

    def list(self, *, limit: int | None = None, after: str | None = None) -> KeyList:
        return self._client.send(routes.keys(limit, after))

    def revoke(self, key_id: str) -> KeyView:
        """Make a key worthless, by its id or its prefix; within 5 seconds everywhere."""
        return self._client.send(routes.revoke_key(key_id))
