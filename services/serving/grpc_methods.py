"""TensorFlow Serving's gRPC methods: messages in, one call of the dataplane, messages out.

Importing this imports the message classes; ``grpc_server`` does so once it is asked to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from services.serving import messages
from services.serving.config import models_of
from services.serving.dataplane import Dataplane
from services.serving.errors import CODES_BY_NUMBER, Code, ServingError, invalid_argument
from services.serving.grpc_server import Method
from services.serving.protos import without_tensorflow
from services.serving.reload import Reload
from services.serving.telemetry import Telemetry
from services.serving.textproto import ConfigError
from services.serving.trace import Trace

with without_tensorflow():
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        model_management_pb2,
        predict_pb2,
        regression_pb2,
    )

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"
_NUMBERS = {code: number for number, code in enumerate(CODES_BY_NUMBER)}


class Methods:
    """The methods by their full names. Safe to call from many threads."""

    def __init__(
        self, dataplane: Dataplane, reload: Reload, telemetry: Telemetry, *, as_content: bool = False
    ) -> None:
        self._dataplane = dataplane
        self._reload = reload
        self._telemetry = telemetry
        self._as_content = as_content

    def table(self) -> Mapping[str, Method]:
        """Full method name -> a function of the request's bytes, its trace, and the seconds that are left."""
        return {
            _PREDICTION + "Predict": _method(predict_pb2.PredictRequest, self._predict),
            _PREDICTION + "Classify": _method(classification_pb2.ClassificationRequest, self._classify),
            _PREDICTION + "Regress": _method(regression_pb2.RegressionRequest, self._regress),
            _PREDICTION + "MultiInference": _method(inference_pb2.MultiInferenceRequest, self._multi),
            _PREDICTION + "GetModelMetadata": _method(
                get_model_metadata_pb2.GetModelMetadataRequest, self._metadata
            ),
            _MODEL + "GetModelStatus": _method(get_model_status_pb2.GetModelStatusRequest, self._status),
            _MODEL + "HandleReloadConfigRequest": _method(
                model_management_pb2.ReloadConfigRequest, self._handle_reload
            ),
        }

    def _predict(self, request: Any, trace: Trace, timeout: float) -> Any:
        return messages.predict(
            self._dataplane.inference, request, trace, timeout, as_content=self._as_content
        )

    def _classify(self, request: Any, trace: Trace, timeout: float) -> Any:
        return messages.classify(self._dataplane.inference, request, trace, timeout)

    def _regress(self, request: Any, trace: Trace, timeout: float) -> Any:
        return messages.regress(self._dataplane.inference, request, trace, timeout)

    def _multi(self, request: Any, trace: Trace, timeout: float) -> Any:
        return messages.multi_inference(self._dataplane.inference, request, trace, timeout)

    def _metadata(self, request: Any, trace: Trace, _timeout: float) -> Any:
        target = messages.target_of(request, nameless=True)
        trace.model = target.model
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid_argument(f"Metadata field {name} is not supported")
        found = self._dataplane.metadata(messages.target_of(request))
        trace.version = int(found["model_spec"]["version"])
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = target.model
        response.model_spec.version.value = trace.version
        response.metadata["signature_def"].Pack(
            json_format.ParseDict(
                found["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap()
            )
        )
        return response

    def _status(self, request: Any, trace: Trace, _timeout: float) -> Any:
        target = messages.target_of(request, nameless=True)
        trace.model = target.model
        response = get_model_status_pb2.GetModelStatusResponse()
        for one in self._dataplane.statuses(target):
            entry = response.model_version_status.add(
                version=one.version,
                state=get_model_status_pb2.ModelVersionStatus.State.Value(str(one.state)),
            )
            entry.status.error_code = _NUMBERS[one.code]
            entry.status.error_message = one.message
        return response

    def _handle_reload(self, request: Any, _trace: Trace, timeout: float) -> Any:
        before = {name: self._telemetry.counter_total(name) for name in request.metric_names}
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest."
                " Only ModelConfigList is currently supported"
            )
        try:
            models = models_of(request.config, {one["name"] for one in self._dataplane.models()["models"]})
        except ConfigError as error:
            raise invalid_argument(str(error)) from None
        self._reload(models, timeout)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name, value in before.items():  # a name that means nothing has not increased
            now = self._telemetry.counter_total(name)
            response.metric.add(name=name, int64_value_increase=(now or 0) - (value or 0))
        return response


def _method(kind: type[Message], call: Callable[[Any, Trace, float], Message]) -> Method:
    def run(raw: bytes, trace: Trace, timeout: float) -> bytes:
        request = kind()
        try:
            request.ParseFromString(raw)
        except DecodeError as error:
            raise ServingError(Code.INTERNAL, f"Failed to parse the request: {error}") from None
        answer: bytes = call(request, trace, timeout).SerializeToString()
        return answer

    return run
