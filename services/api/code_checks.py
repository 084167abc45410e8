"""Is the user's own builder there, does it have the function, and do the parameters fit? Asked at submission.

The code is read, not run. What is learnt goes into the job, so that it runs with this code or not at all.
"""

from __future__ import annotations

import difflib
from typing import Any

from shared import user_code
from shared.errors import InvalidInput
from shared.settings import Settings
from shared.specs import JobSpec, TrainJob, UserDataset, UserModel
from shared.user_code import Builder, Entry, Function


class CodeChecks:
    """Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._code_dirs = settings.code_dirs

    def check(self, spec: JobSpec) -> dict[str, dict[str, Any]]:
        """What the job records about the user's code: {builder: {"sha256", "source"}}; empty for jobs without any.

        Raises:
            InvalidInput: unknown_builder, builder_unusable or invalid_params, with the field to mend.
        """
        if not isinstance(spec, TrainJob):
            return {}
        found: dict[str, dict[str, Any]] = {}
        if isinstance(spec.model, UserModel):
            found |= self._record(spec.model.builder, spec.model.params, "model", "build_model")
        if isinstance(spec.dataset, UserDataset):
            found |= self._record(spec.dataset.builder, spec.dataset.params, "dataset", "make_dataset")
        return found

    def _record(
        self, name: str, params: dict[str, Any], where: str, function: Function
    ) -> dict[str, dict[str, Any]]:
        builder = self._usable(name, where, function)
        _check_params(builder.functions[function], params, where)
        return {name: {"sha256": builder.sha256, "source": builder.source}}

    def _usable(self, name: str, where: str, function: Function) -> Builder:
        field = f"{where}.builder"
        if name in user_code.BUILT_IN:
            raise InvalidInput(
                f"The built-in builder {name} makes models, not data.", code="builder_unusable", field=field
            )
        builder = user_code.find(name, self._code_dirs)
        if builder is None:
            raise InvalidInput(
                f"There is no builder {name!r}.",
                code="unknown_builder",
                field=field,
                hint=_which(name, user_code.names(self._code_dirs), where),
            )
        if builder.problem is not None:
            raise InvalidInput(
                f"The builder {name!r} can't be used. {builder.problem}", code="builder_unusable", field=field
            )
        if function not in builder.functions:
            raise InvalidInput(
                f"The builder {name!r} has no function {function}.",
                code="builder_unusable",
                field=field,
                hint=f"Define {function}(params) in {builder.path.name}.",
            )
        return builder


def _which(name: str, own: list[str], where: str) -> str:
    known = [*(user_code.BUILT_IN if where == "model" else ()), *own]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    if known:
        return (
            f"There are: {', '.join(known[:20])}. The operator adds folders with modelyard up --code FOLDER."
        )
    return "The operator adds folders with modelyard up --code FOLDER (MODELYARD_CODE_DIRS)."


def _check_params(entry: Entry, params: dict[str, Any], where: str) -> None:
    if entry.takes_params:
        return  # what a function reads from a dict can't be known for certain
    known = [parameter.name for parameter in entry.parameters]
    for name in params:
        if name not in known and not entry.open:
            close = difflib.get_close_matches(name, known, n=1)
            raise InvalidInput(
                f"The builder takes no parameter {name[:80]!r}.",
                code="invalid_params",
                field=f"{where}.params.{name[:80]}",
                hint=f"Did you mean {close[0]}?" if close else f"It takes: {', '.join(known) or 'none'}.",
            )
    for parameter in entry.parameters:
        if parameter.required and parameter.name not in params:
            raise InvalidInput(
                f"The builder needs the parameter {parameter.name!r}.",
                code="invalid_params",
                field=f"{where}.params",
            )
