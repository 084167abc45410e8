"""What the server does for a request, whatever the transport: predict, classify, regress, status, metadata, list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.serving.decode import decode_predict, require_object, signature_name
from services.serving.encode import encode_predict
from services.serving.examples import decode_examples
from services.serving.inference import Inference, Target, with_defaults
from services.serving.json_reader import read_json
from services.serving.manager import ModelManager, VersionStatus
from services.serving.plain_predict import Answer, PlainPredictions, asked_signature
from services.serving.scoring import check_method_name, classes_json, values_json
from services.serving.signature import Array
from services.serving.trace import Trace


class Dataplane:
    """Answers requests from the manager's versions. Safe to call from many threads."""

    def __init__(self, manager: ModelManager, *, check_method_names: bool = False) -> None:
        self._manager = manager
        self._check_method_names = check_method_names
        # None: each request is to be looked at closely.
        self.plain = None if check_method_names else PlainPredictions(manager.acquire)
        self.npy = PlainPredictions(manager.acquire).predict_npy
        self.inference = Inference(manager.acquire, check_method_names=check_method_names)

    def predict(self, target: Target, body: bytes, trace: Trace) -> Answer:
        """Run one JSON predict request.

        The order of the checks is TensorFlow Serving's: syntax, signature name, model, signature, values.

        Raises:
            ServingError: with the code and text for the caller.
        """
        answer = None if self.plain is None else self.plain.predict(target, body, trace, only_quick=False)
        if answer is not None:
            return answer
        document = require_object(read_json(body))
        asked = signature_name(document)
        with self._manager.acquire(target.model, target.version, target.label) as harness:
            trace.version = harness.version
            signature = asked_signature(harness.servable, asked)
            trace.signature = signature.name
            if self._check_method_names:
                check_method_name(signature, "predict")
            inputs = decode_predict(document, signature, asked)
            arrays = with_defaults(signature, inputs.arrays)
            with trace.running():
                outputs = harness.servable.run(signature, arrays)
        return Answer(encode_predict(outputs, inputs.format), harness.version)

    def classify(self, target: Target, body: bytes, trace: Trace) -> Answer:
        """Run one JSON classify request. Here the whole body is read before the model is looked up.

        Raises:
            ServingError: with the code and text for the caller.
        """
        name, examples = _examples_request(body)
        found, version = self.inference.classify(target, name, lambda: examples, trace)
        return Answer(classes_json(found), version)

    def regress(self, target: Target, body: bytes, trace: Trace) -> Answer:
        """Run one JSON regress request. See ``classify``."""
        name, examples = _examples_request(body)
        values, version = self.inference.regress(target, name, lambda: examples, trace)
        return Answer(values_json(values), version)

    def status(self, target: Target) -> dict[str, Any]:
        """All versions, or the asked one. A label is ignored, as in TensorFlow Serving.

        Raises:
            ServingError: NOT_FOUND.
        """
        return {
            "model_version_status": [
                {
                    "version": str(one.version),
                    "state": str(one.state),
                    "status": {"error_code": str(one.code), "error_message": one.message},
                }
                for one in self.statuses(target)
            ]
        }

    def statuses(self, target: Target) -> list[VersionStatus]:
        """What ``status`` says, as data.

        Raises:
            ServingError: NOT_FOUND.
        """
        return self._manager.statuses(target.model, target.version)

    def metadata(self, target: Target) -> dict[str, Any]:
        """The signatures of one version.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
        """
        with self._manager.acquire(target.model, target.version, target.label) as harness:
            definitions = dict(harness.servable.signature_def_json)
        return {
            "model_spec": {"name": target.model, "signature_name": "", "version": str(harness.version)},
            "metadata": {"signature_def": {"signature_def": definitions}},
        }

    def models(self) -> dict[str, Any]:
        """Every model with its current versions; TensorFlow Serving has no such answer (its issue 795)."""
        return {
            "models": [
                {
                    "name": name,
                    "version": None if table.latest is None else str(table.latest),
                    "available_versions": [str(version) for version in sorted(table.versions, reverse=True)],
                    "version_labels": {
                        label: str(version) for label, version in sorted(table.labels.items())
                    },
                }
                for name, table in self._manager.models().items()
            ]
        }

    def settled(self) -> Mapping[str, bool]:
        """Per model: whether its first loads are over, well or badly."""
        return self._manager.settled()


def _examples_request(body: bytes) -> tuple[str, Array]:
    document = require_object(read_json(body))
    return signature_name(document), decode_examples(document)
