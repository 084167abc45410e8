"""Moves labels and defaults between versions in two steps: first the versions are loaded, then the requests follow.

Between the steps nothing has changed for anybody; a version that can't be loaded leaves everything as it was. What is
no longer needed stays loaded for some seconds more. Works on any server that reads ``models.config``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from services.api.model_server import ModelServer
from shared.errors import Conflict, NotFound
from shared.serving_client import LoadFailed, ServingClient
from shared.serving_config import ServingConfig
from shared.specs.traffic import LabelRoute
from shared.store import Label, Store
from shared.store.labels import DEFAULT

log = logging.getLogger(__name__)

USUAL = "stable"  # the label meant when several could be


class TrafficMoves:
    """Use cases; they block while a version loads. Thread-safe."""

    def __init__(
        self,
        store: Store,
        config: ServingConfig,
        serving: ServingClient,
        server: ModelServer,
        *,
        timeout_seconds: float,
        keep_waiting: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._config = config
        self._serving = serving
        self._server = server
        self._timeout = timeout_seconds
        self._keep_waiting = keep_waiting

    def put(
        self, model: str, label: str, route: LabelRoute, *, why: str = "set", back: bool = False
    ) -> Label:
        """Send a label's requests where ``route`` says.

        Raises:
            NotFound: no such model, version or label.
            Conflict: a version could not be loaded (``version_not_available``), or the labels lead in a circle.
            Unavailable: the store or the model server does not answer.
        """
        versions = self._store.labels.check(model, label, route)
        self._load(model, label, versions)
        written = self._store.labels.put(model, label, route, why=why, back=back)
        self._settled()
        return written

    def delete(self, model: str, label: str) -> None:
        """Remove a label; one that is not there is no error, an unknown model is."""
        self._store.labels.delete(model, label)
        self._settled()

    def rollback(self, model: str, label: str | None, version: int | None) -> None:
        """Go back: a label to what it was before, or to ``version``; a model without labels by its default.

        Raises:
            NotFound: no such model, label or version.
            Conflict: there is nothing to go back to, or it is not clear what is meant.
        """
        labels = {item.name: item for item in self._store.labels.of(model)}
        if label is None and labels:
            label = USUAL if USUAL in labels else next(iter(labels)) if len(labels) == 1 else None
            if label is None:
                raise Conflict(
                    f"The model {model!r} has several labels: {', '.join(labels)}.",
                    code="label_unclear",
                    field="label",
                    hint="Say which one shall go back.",
                )
        if label is None:
            self._default_back(model, version)
            return
        if label not in labels:
            self._store.labels.get(model, label)  # raises
        self._label_back(model, labels[label], version)

    def _label_back(self, model: str, label: Label, version: int | None) -> None:
        if version is not None:
            self.put(model, label.name, LabelRoute(version=version), why="rollback")
            return
        if not label.history:
            raise Conflict(
                f"The label {label.name!r} has not pointed anywhere else before.",
                code="nothing_to_roll_back",
                field="label",
                hint="Name a version to go to.",
            )
        before = LabelRoute.model_validate(label.history[-1]["route"])
        self.put(model, label.name, before, why="rollback", back=True)

    def _default_back(self, model: str, version: int | None) -> None:
        record = self._store.models.get(model)
        now = self._store.labels.traffic(model).default or record.latest_version
        if version is None:
            before = self._store.models.versions(model, after=now, limit=1).items if now else []
            if not before:
                raise Conflict(
                    f"The model {model!r} has no earlier version.",
                    code="nothing_to_roll_back",
                    hint=f"See its versions with GET /models/{model}/versions.",
                )
            version = before[0].version
        self._store.models.version(model, version)
        self._load(model, DEFAULT, [version])
        latest = version == record.latest_version
        self._store.labels.set_default(model, None if latest else version, why="rollback")
        self._settled()

    def _load(self, model: str, label: str, versions: Iterable[int]) -> None:
        """The first step."""
        self._serving.states(model)  # a server that is down is said to be, rather than waited for
        self._store.labels.prepare(model, label, versions)
        try:
            self._config.write()
            for version in versions:
                self._serving.wait_loaded(
                    model, version, timeout=self._timeout, keep_waiting=self._keep_waiting
                )
        except BaseException as error:
            self._abandon(model, label)
            if isinstance(error, LoadFailed):
                raise Conflict(
                    error.message, code=error.code, field="version", hint="Everything is as it was."
                ) from None
            raise

    def _abandon(self, model: str, label: str) -> None:
        try:
            self._store.labels.abandon(model, label)
            self._config.write()
        except (NotFound, OSError) as error:
            log.warning("%s: %s", model, error)

    def _settled(self) -> None:
        self._server.forget()
        self._config.write()
