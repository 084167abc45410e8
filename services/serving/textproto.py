"""Text protos of TensorFlow Serving's configuration files, read by protobuf's own parser.

The message types are described here in a line per field instead of being imported: most of them are in no
package, and the others come with TensorFlow. Unknown fields and typing errors are found with line and column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_PACKAGE = "tensorflow.serving"
_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
}
_FIELD = re.compile(r"(repeated )?([\w.]+) (\w+) = (\d+)(?: in (\w+))?")
_MAP = re.compile(r"map<(\w+), (\w+)> (\w+) = (\d+)")


class ConfigError(ValueError):
    """A configuration that can't be used; the text says where and why."""


def parse_text(
    text: str,
    messages: Mapping[str, tuple[str, ...]],
    root: str,
    enums: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> Any:
    """Read ``text`` as a message of type ``root``.

    ``messages``: per type its fields as in a .proto file, ``[repeated] <type> <name> = <number> [in <oneof>]`` or
    ``map<...> <name> = <number>``. Types are scalars or others of the mapping, all in one namespace.
    ``enums``: per type its values, numbered from 0.

    Raises:
        ConfigError: if it is none.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{root}.proto", package=_PACKAGE, syntax="proto3")
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in messages.items():
        _describe(file.message_type.add(name=name), fields, enums)
    # A pool of our own: the default one may hold TensorFlow Serving's real messages under the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{root}"))()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        # protobuf's own words in C++: scripts look for them in the log
        raise ConfigError(f"Error parsing text-format {_PACKAGE}.{root}: {error}") from None
    return message


def _describe(message: Any, fields: tuple[str, ...], enums: Mapping[str, Any]) -> None:
    for text in fields:
        if entry := _MAP.fullmatch(text):
            key, value, name, number = entry.groups()
            entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
            nested = message.nested_type.add(name=entry_name)
            nested.options.map_entry = True
            _describe(nested, (f"{key} key = 1", f"{value} value = 2"), enums)
            _add(message, f"{message.name}.{entry_name}", name, number, repeated=True)
            continue
        match = _FIELD.fullmatch(text)
        assert match is not None, text  # noqa: S101 - the descriptions are constants of this program
        repeated, kind, name, number, one_of = match.groups()
        field = _add(message, kind, name, number, repeated=bool(repeated), is_enum=kind in enums)
        if one_of:
            names = [one.name for one in message.oneof_decl]
            if one_of not in names:
                message.oneof_decl.add(name=one_of)
                names.append(one_of)
            field.oneof_index = names.index(one_of)


def _add(message: Any, kind: str, name: str, number: str, *, repeated: bool, is_enum: bool = False) -> Any:
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    scalar = _TYPES.get(kind)
    if scalar is not None:
        return message.field.add(name=name, number=int(number), label=label, type=scalar)
    return message.field.add(
        name=name,
        number=int(number),
        label=label,
        type=_Field.TYPE_ENUM if is_enum else _Field.TYPE_MESSAGE,
        type_name=f".{_PACKAGE}.{kind}",
    )
