"""Predict requests that need neither a JSON parser nor a look at the rules: one block of numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from services.serving.decode import Format
from services.serving.encode import encode_predict
from services.serving.errors import ServingError, invalid_argument
from services.serving.inference import Lease, Target, with_defaults
from services.serving.litert import LitertServable
from services.serving.npy import as_inputs, parameters, read_npy, write_npy
from services.serving.plain import block_of, read_plain
from services.serving.signature import DEFAULT_SIGNATURE, Servable, Signature
from services.serving.trace import Trace


@dataclass(frozen=True, slots=True)
class Answer:
    """A body, JSON unless asked otherwise, and the version that made it."""

    body: bytes
    version: int


class PlainPredictions:
    """Answers from the versions that ``acquire`` gives out. Safe to call from many threads."""

    def __init__(
        self, acquire: Callable[[str, int | None, str | None], AbstractContextManager[Lease]]
    ) -> None:
        self._acquire = acquire

    def predict(self, target: Target, body: bytes, trace: Trace, *, only_quick: bool) -> Answer | None:
        """Answer a JSON body that is one block of numbers. Nothing is refused here: None means, look closer.

        ``only_quick``: also where it would take more than a millisecond or two.
        """
        try:
            lease = self._acquire(target.model, target.version, target.label)
        except ServingError:
            return None
        with lease as harness:
            servable = harness.servable
            if isinstance(servable, LitertServable):
                return self._on_litert(servable, harness.version, body, trace, only_quick=only_quick)
            signature = servable.signatures.get(DEFAULT_SIGNATURE)
            spec = None if signature is None or only_quick else block_of(signature)
            found = None if spec is None else read_plain(body, spec)
            if signature is None or found is None:
                return None
            layout, array = found
            trace.version, trace.signature = harness.version, signature.name
            with trace.running():
                outputs = servable.run(signature, dict.fromkeys(signature.inputs, array))
            return Answer(encode_predict(outputs, layout), harness.version)

    @staticmethod
    def _on_litert(
        servable: LitertServable, version: int, body: bytes, trace: Trace, *, only_quick: bool
    ) -> Answer | None:
        if servable.block is None or (only_quick and not servable.quick):
            return None
        found = read_plain(body, servable.block)
        if found is None:
            return None
        layout, array = found
        signature = servable.signatures[DEFAULT_SIGNATURE]
        inputs = dict.fromkeys(signature.inputs, array)
        if only_quick and not servable.is_quick(signature, inputs):
            return None
        trace.version, trace.signature = version, DEFAULT_SIGNATURE
        with trace.running():
            outputs = servable.run_fitting(inputs) if only_quick else servable.run(signature, inputs)
        if outputs is None:
            trace.runtime = None
            return None
        return Answer(encode_predict(outputs, layout), version)

    def predict_npy(
        self, target: Target, body: bytes, query: str, trace: Trace, *, as_npy: bool, only_quick: bool = False
    ) -> Answer | None:
        """Run one predict request whose body is a NumPy file; the answer is columnar JSON, or a NumPy file.

        None, if ``only_quick`` and it would take more than a millisecond or two: call it again from another thread.

        Raises:
            ServingError: with the code and text for the caller.
        """
        array = read_npy(body)
        named = parameters(query)
        with self._acquire(target.model, target.version, target.label) as harness:
            servable = harness.servable
            signature = asked_signature(servable, named.get("signature_name", ""))
            trace.version, trace.signature = harness.version, signature.name
            arrays = with_defaults(signature, as_inputs(array, signature, named.get("input")))
            if only_quick and not (
                isinstance(servable, LitertServable) and servable.is_quick(signature, arrays)
            ):
                return None
            with trace.running():
                outputs = servable.run(signature, arrays)
        answer = write_npy(outputs) if as_npy else encode_predict(outputs, Format.COLUMNAR)
        return Answer(answer, harness.version)


def asked_signature(servable: Servable, asked: str) -> Signature:
    """The signature of that name; the default one for no name.

    Raises:
        ServingError: INVALID_ARGUMENT, there is none.
    """
    name = asked or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    return signature
