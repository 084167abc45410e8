"""From an export in a run's folder to a version that the model server says is AVAILABLE."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.worker import parity
from services.worker.parity import ParityMismatch
from services.worker.protocol import Finished
from shared.jobs import Claim, Job
from shared.model_repo import ModelRepo, tree_size
from shared.serving_client import ServingClient
from shared.serving_config import SETTLE_SECONDS, ServingConfig
from shared.specs.traffic import LabelRoute
from shared.store import Publication, Store

# Longer than servers take between two looks at models.config; one that is away is not waited for.
LABEL_SECONDS = 15.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishing is one rename inside one fenced transaction, then proven. Thread-safe."""

    store: Store
    repo: ModelRepo
    serving: ServingClient
    config: ServingConfig
    timeout_seconds: float

    def publish(
        self, claim: Claim, job: Job, model: str, export: Path, finished: Finished, run: dict[str, Any]
    ) -> int:
        """Make the export the next version of ``model``; returns the number.

        Raises:
            StaleClaim: another attempt has the job; nothing became visible.
            DiskFull: no room on the models volume; nothing became visible.
        """
        lineage = {
            "job_id": job.id,
            "attempt": claim.attempt,
            **_trained_on(job, run),
            "versions": run.get("versions", {"python": platform.python_version()}),
            **finished.lineage,
        }
        staged = self.repo.stage(model, job.id, claim.attempt, export, {"lineage": lineage})
        publication = Publication(
            size_bytes=tree_size(staged),
            metrics=finished.metrics,
            signatures=finished.signatures,
            classes=finished.classes,
            lineage=lineage,
        )
        self._let_labels_settle(model)
        version = self.store.models.publish(
            claim, model, publication, place=lambda lowest: self.repo.place(model, staged, job.id, lowest)
        )
        self.config.write()
        return version

    def prove(self, job: Job, model: str, version: int, keep_waiting: Callable[[], bool]) -> bool:
        """Wait until the version is AVAILABLE, compare its answers, then move the label the job asked for.

        Returns False if a later version had overtaken it by then, so that it is not loaded. With a label it is loaded
        all the same, for the label's sake.

        Raises:
            LoadFailed: it did not become AVAILABLE.
            ParityMismatch: it answers otherwise than the training program did, and was taken away again.
        """
        served = self.serving.wait_available(
            model, version, timeout=self.timeout_seconds, keep_waiting=keep_waiting
        )
        label = (job.spec.get("publish") or {}).get("label")
        if label and not served:
            self.store.labels.prepare(model, label, [version])
            self.config.write()
            self.serving.wait_loaded(model, version, timeout=self.timeout_seconds)
        if served or label:
            self._compare(model, version)
        self.store.labels.published(model, version)
        if label:
            self.store.labels.put(model, label, LabelRoute(version=version), why=f"published by {job.id}")
        self.config.write()
        return served or bool(label)

    def _let_labels_settle(self, model: str) -> None:
        """A server that has not yet read of a label that was just set takes a new version for all that is wanted, and
        lets go what the label points at.
        """
        if self.store.labels.settling(SETTLE_SECONDS):
            routes = self.store.labels.traffic(model).labels.items()
            labels = {label: route.version for label, route in routes if route.version is not None}
            if labels and not self.serving.wait_labelled(model, labels, timeout=LABEL_SECONDS):
                log.warning("the model server has not read of all labels of %s", model)

    def _compare(self, model: str, version: int) -> None:
        folder = self.repo.root / model / str(version)
        try:
            parity.check(folder, lambda body: self.serving.predict(model, version, body))
        except ParityMismatch:
            self.store.models.delete_version(model, version)
            self.config.write()
            self.repo.remove(model, version)
            raise


def _trained_on(job: Job, run: dict[str, Any]) -> dict[str, Any]:
    if job.kind != "train":
        return {}  # its source's lineage says it
    return {
        "dataset": job.spec["dataset"],
        "data_fingerprint": (run.get("data") or {}).get("fingerprint"),
        "seed": job.spec["fit"]["seed"],
    }
