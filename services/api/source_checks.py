"""Can the model that a job exports or goes on from be had, and does it have what is asked of it? At submission."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import model_sources
from shared.errors import InvalidInput
from shared.model_sources import ModelSource
from shared.settings import Settings
from shared.specs import ExportJob, FromFileModel, JobSpec, TrainJob
from shared.store import Store

_NEEDS = {
    "pixels": "images",
    "image_bytes": "images",
    "class_names": "classes",
    "classify": "classes",
    "regress": "numbers to predict",
}


class SourceChecks:
    """Thread-safe."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def check(self, spec: JobSpec) -> ModelSource | None:
        """The source's files; None for a job that starts from no run and no version.

        Raises:
            InvalidInput: the source is not there, or has no signature that is asked for.
        """
        if isinstance(spec, TrainJob) and isinstance(spec.model, FromFileModel):
            _check_file(
                spec.model, model_sources.find_file(spec.model.from_file, self._store, self._settings)
            )
        named = model_sources.named_by(spec)
        if named is None:
            return None
        source = model_sources.find(named[0], self._store, self._settings.paths, where=named[1])
        for index, name in enumerate((spec.signatures if isinstance(spec, ExportJob) else None) or ()):
            if name not in possible_signatures(source.facts):
                raise InvalidInput(
                    f"The model can't have the signature {name!r}: it takes or gives no {_NEEDS.get(name, name)}.",
                    code="signature_not_possible",
                    field=f"signatures.{index}",
                    hint=f"It can have: {', '.join(possible_signatures(source.facts))}.",
                )
        return source


def _check_file(spec: FromFileModel, path: Path) -> None:
    needs = path.is_dir() or path.name.endswith(".weights.h5")
    if needs and spec.architecture is None:
        raise InvalidInput(
            f"{path.name!r} has weights, and no architecture that Keras could build.",
            code="architecture_missing",
            field="model.architecture",
            hint="Say what they belong to: a builder with its params, or keras_config (model.to_json()).",
        )
    if not needs and spec.architecture is not None:
        raise InvalidInput(
            f"{path.name!r} has an architecture of its own.", field="model.architecture", hint="Leave it out."
        )
    if spec.keep_optimizer and path.suffix != ".keras":
        raise InvalidInput(
            f"{path.name!r} has no optimizer's state that can be gone on with.",
            code="no_optimizer_state",
            field="model.keep_optimizer",
            hint="Keras keeps it in .keras files; leave keep_optimizer out to begin with a fresh one.",
        )


def possible_signatures(facts: dict[str, Any]) -> list[str]:
    """Names of the signatures that make sense for a model of which these facts are kept; as the trainer has them."""
    row = facts["input"]
    image = row["kind"] == "image"
    readable = not image or row["shape"][-1] in (1, 3, 4)  # as PNG files have channels
    found = ["serving_default"]
    if image:
        found += [
            *(["pixels"] if row.get("dtype") == "uint8" else []),
            *(["image_bytes"] if readable else []),
        ]
    if facts.get("classes") is not None:
        return [*found, "class_names", *(["classify"] if readable else [])]
    return [*found, "regress"] if facts.get("outputs") == 1 and readable else found
