"""Requests that are arrays already: what gRPC and warm-up records ask for, and REST after its JSON is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from services.serving import scoring
from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.scoring import Classes
from services.serving.signature import DEFAULT_SIGNATURE, Array, Servable, Signature
from services.serving.trace import Trace

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
NO_LIMIT = math.inf


@dataclass(frozen=True)
class Target:
    """Which version of which model a request means; neither version nor label: the latest."""

    model: str
    version: int | None = None
    label: str | None = None


class Lease(Protocol):
    """A version that stays loaded until it is given back."""

    @property
    def servable(self) -> Servable: ...

    @property
    def version(self) -> int: ...


Acquire = Callable[[str, int | None, str | None], AbstractContextManager[Lease]]
Examples = Callable[[], Array]  # serialized tf.Example messages
Tensors = Mapping[str, tuple[str, Array]]  # alias -> type (C++ name) and values


@dataclass(frozen=True)
class Predicted:
    """The outputs of one signature, and which version computed them."""

    version: int
    signature: str
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Scored:
    """A classification or a regression, and which version computed it."""

    version: int
    signature: str
    result: Classes | Array


@dataclass(frozen=True)
class Task:
    """One part of a multi-inference request."""

    target: Target
    method: str
    signature: str


class Inference:
    """Runs requests on versions that ``acquire`` gives out. Safe to call from many threads.

    ``timeout`` is in seconds; None means the server's own limit for a call, infinity none.
    """

    def __init__(self, acquire: Acquire, *, check_method_names: bool = False) -> None:
        self._acquire = acquire
        self._check_method_names = check_method_names

    def predict(
        self, target: Target, name: str, tensors: Tensors, only: Sequence[str], trace: Trace, timeout: float
    ) -> Predicted:
        """Run one signature; ``only`` names the wanted outputs (none: all).

        Raises:
            ServingError: TensorFlow Serving's codes and texts for gRPC.
        """
        name = name or DEFAULT_SIGNATURE
        with self._acquire(target.model, target.version, target.label) as lease:
            trace.version = lease.version
            signature = lease.servable.signatures.get(name)
            if signature is None:
                raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
            trace.signature = name
            if self._check_method_names:
                scoring.check_method_name(signature, "predict")
            found = _checked(signature, tensors)
            _check_filter(signature, only)
            inputs = _typed(signature, found)
            with trace.running():
                outputs = lease.servable.run(signature, inputs, timeout=timeout, only=only)
            return Predicted(lease.version, name, outputs)

    def classify(
        self, target: Target, name: str, given: Examples, trace: Trace, timeout: float | None = None
    ) -> tuple[Classes, int]:
        """Classify serialized tf.Example messages; what was found, and the version.

        ``given`` is called when the signature is found, which is the contract's order of checks.

        Raises:
            ServingError: see ``scoring``.
        """
        with self._acquire(target.model, target.version, target.label) as lease:
            signature = _scoring_signature(lease, name, trace)
            if self._check_method_names:
                scoring.check_method_name(signature, "classify")
            scoring.check_classify(signature)
            examples = _counted(given, trace)
            with trace.running():
                return scoring.classify(lease.servable, signature, examples, timeout), lease.version

    def regress(
        self, target: Target, name: str, given: Examples, trace: Trace, timeout: float | None = None
    ) -> tuple[Array, int]:
        """One number per example, and the version. See ``classify``."""
        with self._acquire(target.model, target.version, target.label) as lease:
            signature = _scoring_signature(lease, name, trace)
            if self._check_method_names:
                scoring.check_method_name(signature, "regress")
            scoring.check_regress(signature)
            examples = _counted(given, trace)
            with trace.running():
                return scoring.regress(lease.servable, signature, examples, timeout), lease.version

    def multi(
        self, tasks: Sequence[Task], given: Examples, trace: Trace, timeout: float | None = None
    ) -> list[Scored]:
        """Several classify and regress signatures of one version over the same examples.

        All of them run on the version that the first task asks for. The graph is called once per task, not
        once in all.

        Raises:
            ServingError: TensorFlow Serving's codes and texts.
        """
        target = tasks[0].target
        found: list[Scored] = []
        with self._acquire(target.model, target.version, target.label) as lease:
            seen: set[str] = set()
            for task in tasks:
                if not task.target.model:
                    raise invalid_argument("Found ModelSpec with an empty model name.")
                if task.target.model != target.model:
                    raise invalid_argument(
                        "All ModelSpecs in a MultiInferenceRequest must access the same model name."
                    )
                name = task.signature or DEFAULT_SIGNATURE
                if name in seen:
                    raise invalid_argument(f"Duplicate evaluation of signature: {name}")
                seen.add(name)
                signature = lease.servable.signatures.get(name)
                if signature is None:
                    raise invalid_argument(f"Requested signature not found in model graph: {name}")
                if task.method == CLASSIFY_METHOD:
                    scoring.check_classify(signature)
                elif task.method == REGRESS_METHOD:
                    scoring.check_regress(signature)
                else:
                    raise ServingError(
                        Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method}"
                    )
            examples = _counted(given, trace)
            for task in tasks:
                signature = _scoring_signature(lease, task.signature, trace)
                score = scoring.classify if task.method == CLASSIFY_METHOD else scoring.regress
                with trace.running():
                    result = score(lease.servable, signature, examples, timeout)
                found.append(Scored(lease.version, signature.name, result))
            trace.signature = ",".join(one.signature for one in found)
        return found


def _counted(given: Examples, trace: Trace) -> Array:
    examples = given()
    trace.examples = len(examples)
    return examples


def _scoring_signature(lease: Lease, name: str, trace: Trace) -> Signature:
    trace.version = lease.version
    signature = scoring.find_signature(lease.servable.signatures, name or DEFAULT_SIGNATURE)
    trace.signature = signature.name
    return signature


def check_names(signature: Signature, tensors: Collection[str]) -> None:
    """Whether there are as many tensors as the signature has inputs, or fewer where there are defaults.

    Raises:
        ServingError: INVALID_ARGUMENT, TensorFlow Serving's text.
    """
    missing = len(signature.inputs) - len(tensors)
    if missing < 0 or (missing > 0 and not signature.defaults):
        sent, wanted = set(tensors), signature.inputs.keys()
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(wanted)}"
            f" len({{{_listed(sent)}}}) != len({{{_listed(wanted)}}})."
            f" Sent extra: {{{_listed(sent - wanted)}}}. Missing but required: {{{_listed(wanted - sent)}}}."
        )


def with_defaults(signature: Signature, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """``arrays`` and the defaults of the inputs that they lack.

    Raises:
        ServingError: INVALID_ARGUMENT: too many or too few.
    """
    check_names(signature, arrays)
    if len(arrays) == len(signature.inputs):
        return arrays
    tensors = {alias: (signature.inputs[alias].dtype, array) for alias, array in arrays.items()}
    return _typed(signature, _checked(signature, tensors))


def _checked(signature: Signature, tensors: Tensors) -> dict[str, tuple[str, Array]]:
    """Each input's type and values, if their names are the signature's."""
    check_names(signature, tensors)
    found: dict[str, tuple[str, Array]] = {}
    used: list[str] = []
    for alias, spec in signature.inputs.items():
        if alias in tensors:
            found[alias] = tensors[alias]
            used.append(alias)
        elif alias in signature.defaults:
            found[alias] = signature.defaults[alias]
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {spec.name}) not found in request and no default value"
                f" provided. Inputs expected to be in the request {{{_listed(tensors)}}}, or default input alias set:"
                f" {_listed(signature.defaults)}"
            )
    if len(used) != len(tensors):
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_listed(used)}, request input: {_listed(tensors)}"
        )
    return found


def _typed(signature: Signature, found: Mapping[str, tuple[str, Array]]) -> dict[str, Array]:
    """The values, if their types are the signature's: what TensorFlow's session checks first."""
    for index, (alias, spec) in enumerate(signature.inputs.items()):
        if found[alias][0] != spec.dtype:
            raise invalid_argument(
                f"Expects arg[{index}] to be {spec.dtype} but {found[alias][0]} is provided"
            )
    return {alias: array for alias, (_, array) in found.items()}


def _check_filter(signature: Signature, only: Sequence[str]) -> None:
    seen: set[str] = set()
    for alias in only:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias}"
                f" Outputs expected to be in the set {{{_listed(signature.outputs)}}}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)


def _listed(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
