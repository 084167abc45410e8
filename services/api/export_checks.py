"""Can the model that a job exports or goes on from be had, and does it have what is asked of it? At submission."""

from __future__ import annotations

from typing import Any

from shared import model_sources
from shared.errors import InvalidInput
from shared.model_sources import ModelSource
from shared.settings import Settings
from shared.specs import ExportJob
from shared.store import Store

_NEEDS = {
    "pixels": "images",
    "image_bytes": "images",
    "class_names": "classes",
    "classify": "classes",
    "regress": "numbers to predict",
}


class ExportChecks:
    """Thread-safe."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._home = settings.paths

    def check(self, spec: ExportJob) -> ModelSource:
        """The source's files.

        Raises:
            InvalidInput: the source is not there, or has no signature that is asked for.
        """
        source = model_sources.find(spec.source, self._store, self._home, where="from")
        for index, name in enumerate(spec.signatures or ()):
            if name not in possible_signatures(source.facts):
                raise InvalidInput(
                    f"The model can't have the signature {name!r}: it takes or gives no {_NEEDS.get(name, name)}.",
                    code="signature_not_possible",
                    field=f"signatures.{index}",
                    hint=f"It can have: {', '.join(possible_signatures(source.facts))}.",
                )
        return source


def possible_signatures(facts: dict[str, Any]) -> list[str]:
    """Names of the signatures that make sense for a model of which these facts are kept."""
    image = facts["input"]["kind"] == "image"
    classes = facts.get("classes") is not None
    found = ["serving_default"]
    if image:
        found += [*(["pixels"] if facts["input"].get("dtype") == "uint8" else []), "image_bytes"]
    if classes:
        return [*found, "class_names", "classify"]
    return [*found, "regress"] if facts.get("outputs") == 1 else found
