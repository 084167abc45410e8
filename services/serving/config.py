"""The models to serve: what a ``models.config`` file says, and the same for the flags.

The file is a ``ModelServerConfig`` text proto, read with protobuf's own text parser against descriptors built
here, so that unknown fields and typing errors are found with line and column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_PACKAGE = "tensorflow.serving"
_Field = descriptor_pb2.FieldDescriptorProto


class ConfigError(ValueError):
    """A configuration that can't be used; the text says where and why."""


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


def parse_models_config(text: str) -> dict[str, ModelConfig]:
    """Read a ``models.config``.

    Raises:
        ConfigError: not a text proto, a duplicate name, a relative path, or something not supported here.
    """
    message = _message_class()()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ConfigError(f"not a ModelServerConfig text proto: {error}") from None
    if message.WhichOneof("config") != "model_config_list":
        raise ConfigError("it must hold a model_config_list")
    models: dict[str, ModelConfig] = {}
    for entry in message.model_config_list.config:
        model = _model(entry)
        if model.name in models:
            raise ConfigError(f"Illegal to list model {model.name} multiple times in config list")
        models[model.name] = model
    return models


def _model(entry: Any) -> ModelConfig:
    if not entry.name:
        raise ConfigError("a model has no name")
    if not entry.base_path.startswith("/"):
        raise ConfigError(
            f"Expected model {entry.name} to have an absolute path; got base_path={entry.base_path!r}"
        )
    # 1 is the old enum's TENSORFLOW; both fields empty is accepted too, there being one platform only.
    if entry.model_platform not in ("", "tensorflow") or entry.model_type not in (0, 1):
        raise ConfigError(f"model {entry.name}: only model_platform 'tensorflow' is served")
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
    return ModelConfig(entry.name, entry.base_path, policy, dict(entry.version_labels))


@cache
def _message_class() -> Any:
    """The message class of ModelServerConfig, with TensorFlow Serving's field names and numbers."""
    file = descriptor_pb2.FileDescriptorProto(
        name="modelyard/model_server_config.proto", package=_PACKAGE, syntax="proto3"
    )

    def add(parent: Any, name: str, *fields: tuple[str, int, int, str]) -> Any:
        message = parent.add(name=name)
        for field_name, number, kind, of in fields:
            repeated = of.startswith("*")
            message.field.add(
                name=field_name,
                number=number,
                type=kind,
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
                type_name=f".{_PACKAGE}.{of.lstrip('*')}" if of.lstrip("*") else None,
            )
        return message

    def one_of(message: Any, name: str, *members: str) -> None:
        message.oneof_decl.add(name=name)
        for member in message.field:
            if member.name in members:
                member.oneof_index = len(message.oneof_decl) - 1

    text, i64, u32, enum, sub = (
        _Field.TYPE_STRING,
        _Field.TYPE_INT64,
        _Field.TYPE_UINT32,
        _Field.TYPE_ENUM,
        _Field.TYPE_MESSAGE,
    )
    model_type = file.enum_type.add(name="ModelType")
    for number, value in enumerate(("MODEL_TYPE_UNSPECIFIED", "TENSORFLOW", "OTHER")):
        model_type.value.add(name=value, number=number)
    policy = add(
        file.message_type,
        "ServableVersionPolicy",
        ("latest", 100, sub, "ServableVersionPolicy.Latest"),
        ("all", 101, sub, "ServableVersionPolicy.All"),
        ("specific", 102, sub, "ServableVersionPolicy.Specific"),
    )
    one_of(policy, "policy_choice", "latest", "all", "specific")
    add(policy.nested_type, "Latest", ("num_versions", 1, u32, ""))
    add(policy.nested_type, "All")
    add(policy.nested_type, "Specific", ("versions", 1, i64, "*"))
    model = add(
        file.message_type,
        "ModelConfig",
        ("name", 1, text, ""),
        ("base_path", 2, text, ""),
        ("model_type", 3, enum, "ModelType"),
        ("model_platform", 4, text, ""),
        ("logging_config", 6, sub, "LoggingConfig"),
        ("model_version_policy", 7, sub, "ServableVersionPolicy"),
        ("version_labels", 8, sub, "*ModelConfig.VersionLabelsEntry"),
    )
    labels = add(model.nested_type, "VersionLabelsEntry", ("key", 1, text, ""), ("value", 2, i64, ""))
    labels.options.map_entry = True
    add(file.message_type, "LoggingConfig")
    add(file.message_type, "ModelConfigList", ("config", 1, sub, "*ModelConfig"))
    server = add(file.message_type, "ModelServerConfig", ("model_config_list", 1, sub, "ModelConfigList"))
    one_of(server, "config", "model_config_list")
    # A pool of our own: the default one may hold TensorFlow Serving's real messages under the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelServerConfig"))
