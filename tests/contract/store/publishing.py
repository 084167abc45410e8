"""Publishes a version as a worker would, for tests of the store."""

from __future__ import annotations

from shared.store import Publication, Store
from tests.builders import train_spec

PUBLICATION = Publication(10, {"accuracy": 0.9}, {"serving_default": {}}, ["a", "b"], {"seed": 1})


def publish(store: Store, model: str) -> int:
    """The next version of ``model``."""
    job, _ = store.jobs.create(train_spec(publish={"model": model}))
    taken = store.claims.claim(job.id, "w", 30)
    assert taken is not None
    return store.models.publish(taken[0], model, PUBLICATION, place=lambda lowest: lowest)
