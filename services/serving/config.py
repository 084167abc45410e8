"""The models to serve: what a ``models.config`` file says, and the same for the flags.

The file is a ``ModelServerConfig`` text proto, read with protobuf's own text parser against descriptors built
here, so that unknown fields and typing errors are found with line and column.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.serving.batching import BatchingOptions
from services.serving.textproto import ConfigError, parse_text

_SERVER_CONFIG = {
    "ModelServerConfig": ("ModelConfigList model_config_list = 1 in config",),
    "ModelConfigList": ("repeated ModelConfig config = 1",),
    "ModelConfig": (
        "string name = 1",
        "string base_path = 2",
        "ModelType model_type = 3",
        "string model_platform = 4",
        "LoggingConfig logging_config = 6",
        "ServableVersionPolicy model_version_policy = 7",
        "map<string, int64> version_labels = 8",
    ),
    "LoggingConfig": (),
    "ServableVersionPolicy": (
        "LatestVersions latest = 100 in policy_choice",
        "AllVersions all = 101 in policy_choice",
        "SpecificVersions specific = 102 in policy_choice",
    ),
    "LatestVersions": ("uint32 num_versions = 1",),
    "AllVersions": (),
    "SpecificVersions": ("repeated int64 versions = 1",),
}
_ENUMS = {"ModelType": ("MODEL_TYPE_UNSPECIFIED", "TENSORFLOW", "OTHER")}


@dataclass(frozen=True)
class Latest:
    """Serve the ``count`` highest versions."""

    count: int = 1


@dataclass(frozen=True)
class AllVersions:
    """Serve every version there is."""


@dataclass(frozen=True)
class Specific:
    """Serve these versions, if they are there."""

    versions: frozenset[int]


VersionPolicy = Latest | AllVersions | Specific


@dataclass(frozen=True)
class ModelConfig:
    """One served model."""

    name: str
    base_path: str
    policy: VersionPolicy = Latest()
    labels: Mapping[str, int] = field(default_factory=dict)


def parse_models_config(text: str, *, first: bool = False) -> dict[str, ModelConfig]:
    """Read a ``models.config``; ``first``: none has been read before, so it may say nothing yet.

    Raises:
        ConfigError: not a text proto, a duplicate name, a relative path, or something not supported here.
    """
    message = parse_text(text, _SERVER_CONFIG, "ModelServerConfig", enums=_ENUMS)
    if first and message.WhichOneof("config") is None:
        return {}
    return models_of(message)


def models_of(message: Any, served: Collection[str] = ()) -> dict[str, ModelConfig]:
    """The models that a ModelServerConfig message lists, by name. ``served``: those that are listed already.

    Raises:
        ConfigError: see ``parse_models_config``.
    """
    if message.WhichOneof("config") != "model_config_list":
        raise ConfigError("it must hold a model_config_list")
    entries = message.model_config_list.config
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            raise ConfigError(f"Illegal to list model {entry.name} multiple times in config list")
        names.add(entry.name)
    for entry in entries:
        if entry.name in served and entry.model_platform not in ("", "tensorflow"):
            raise ConfigError(
                f"Illegal to change a model's platform. For model {entry.name} platform was tensorflow"
                f" and new platform requested is {entry.model_platform}"
            )
    return {entry.name: _model(entry) for entry in entries}


def _model(entry: Any) -> ModelConfig:
    if not entry.name:
        raise ConfigError("a model has no name")
    if not local_path(entry.base_path).startswith("/"):
        raise ConfigError(
            f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
        )
    if entry.model_type and entry.model_platform:
        raise ConfigError(
            "Illegal setting both ModelServerConfig::model_type (deprecated)"
            f" and ModelServerConfig::model_platform, model name is {entry.name}"
        )
    if not (entry.model_type or entry.model_platform):
        raise ConfigError(
            "Illegal setting neither ModelServerConfig::model_type (deprecated)"
            f" nor ModelServerConfig::model_platform, model name is {entry.name}"
        )
    if entry.model_type not in (0, 1):  # 1 is the old enum's TENSORFLOW
        raise ConfigError(f"ModelServerConfig::model_type choice {entry.model_type} not supported.")
    if entry.model_platform not in ("", "tensorflow"):
        raise ConfigError(f"Model {entry.name} requests unsupported platform {entry.model_platform}")
    if entry.HasField("logging_config"):
        raise ConfigError(f"model {entry.name}: logging_config is not supported")
    choice = entry.model_version_policy.WhichOneof("policy_choice")
    policy: VersionPolicy = Latest()
    if choice == "latest":
        policy = Latest(max(1, entry.model_version_policy.latest.num_versions))
    elif choice == "all":
        policy = AllVersions()
    elif choice == "specific":
        policy = Specific(frozenset(entry.model_version_policy.specific.versions))
    return ModelConfig(entry.name, local_path(entry.base_path), policy, dict(entry.version_labels))


def local_path(path: str) -> str:
    """A base path without the scheme that it may have as a URI of the local file system."""
    return path.removeprefix("file://")


def parse_monitoring_config(text: str) -> str | None:
    """The path of Prometheus' metrics in a ``monitoring.config``; None if it switches them off.

    Raises:
        ConfigError: not a MonitoringConfig text proto.
    """
    messages = {
        "MonitoringConfig": ("PrometheusConfig prometheus_config = 1",),
        "PrometheusConfig": ("bool enable = 1", "string path = 2"),
    }
    given = parse_text(text, messages, "MonitoringConfig").prometheus_config
    if not given.enable:
        return None
    path: str = given.path or "/monitoring/prometheus/metrics"
    if not path.startswith("/") or path.lower().startswith("/v1/"):
        raise ConfigError(f"the path of the metrics can't be {path!r}")
    return path


@dataclass(frozen=True)
class Tls:
    """TLS for gRPC, as PEM texts. ``client_verify`` asks clients for a certificate that ``custom_ca`` signed."""

    server_key: str
    server_cert: str
    custom_ca: str
    client_verify: bool


def parse_ssl_config(text: str) -> Tls:
    """Read an ``ssl.config``, in which keys and certificates stand as PEM texts.

    Raises:
        ConfigError: not an SSLConfig text proto, or one without key or certificate.
    """
    fields = (
        "string server_key = 1",
        "string server_cert = 2",
        "string custom_ca = 3",
        "bool client_verify = 4",
    )
    given = parse_text(text, {"SSLConfig": fields}, "SSLConfig")
    if not (given.server_key and given.server_cert):
        raise ConfigError("it must hold server_key and server_cert")
    if given.client_verify and not given.custom_ca:
        raise ConfigError("client_verify needs custom_ca, which must have signed the clients' certificates")
    return Tls(given.server_key, given.server_cert, given.custom_ca, given.client_verify)


def parse_batching_config(text: str, cores: int) -> BatchingOptions:
    """Read a ``batching.config``.

    Raises:
        ConfigError: not a BatchingParameters text proto, or something that can't be.
    """
    messages = {
        "BatchingParameters": (
            "Int64Value max_batch_size = 1",
            "Int64Value batch_timeout_micros = 2",
            "Int64Value max_enqueued_batches = 3",
            "Int64Value num_batch_threads = 4",
            "StringValue thread_pool_name = 5",
            "repeated int64 allowed_batch_sizes = 6",
            "bool pad_variable_length_inputs = 7",
            "BoolValue enable_large_batch_splitting = 8",
            "Int64Value max_execution_batch_size = 9",
        ),
        "Int64Value": ("int64 value = 1",),
        "StringValue": ("string value = 1",),
        "BoolValue": ("bool value = 1",),
    }
    given = parse_text(text, messages, "BatchingParameters")

    def number(name: str, default: int, least: int) -> int:
        value = int(getattr(given, name).value) if given.HasField(name) else default
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
        return value

    largest = number("max_batch_size", 1000, 1)
    execution = number("max_execution_batch_size", largest, 1)
    splitting = bool(given.enable_large_batch_splitting.value)
    if splitting and execution > largest:
        raise ConfigError("max_execution_batch_size can't be more than max_batch_size")
    options = BatchingOptions(
        max_batch_size=largest,
        largest_run=execution if splitting else 0,
        timeout_seconds=number("batch_timeout_micros", 0, 0) / 1e6,
        max_enqueued_batches=number("max_enqueued_batches", 10, 1),
        threads=number("num_batch_threads", cores, 1),
        allowed_sizes=tuple(given.allowed_batch_sizes),
        pad=given.pad_variable_length_inputs,
    )
    sizes = options.allowed_sizes
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != options.run_limit):
        raise ConfigError(
            "allowed_batch_sizes must increase, and end with max_batch_size (max_execution_batch_size with"
            " enable_large_batch_splitting)"
        )
    return options
