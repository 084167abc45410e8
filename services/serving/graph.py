"""What a SavedModel's ``saved_model.pb`` says about it: read as a message, so TensorFlow is not needed for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from services.serving.errors import Code, ServingError
from services.serving.protos import without_tensorflow
from services.serving.shapes import is_brittle
from services.serving.signature import Signature, TensorSpec
from services.serving.tensors import to_array

with without_tensorflow():
    from tensorflow.core.framework import types_pb2
    from tensorflow.core.protobuf import saved_model_pb2

# What a graph does that answers otherwise when it is asked again, or leaves something behind.
_STATEFUL = (
    "Assign",
    "Scatter",
    "Random",
    "Multinomial",
    "StatefulUniform",
    "StatefulStandard",
    "StatefulTruncated",
    "LookupTableInsert",
    "Queue",
    "Stack",
    "PyFunc",
)
_VARIABLE_OPS = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_REFERENCES = 100  # DT_FLOAT_REF is DT_FLOAT + 100; TF1 exports have them


@dataclass(frozen=True)
class GraphFacts:
    """``brittle``: see ``shapes``. ``stateless``: a request leaves nothing behind that the next one could see."""

    signatures: Mapping[str, Signature]
    signature_def_json: Mapping[str, Any]
    brittle: bool
    stateless: bool
    has_variables: bool


def facts_of(meta_graph: Any) -> GraphFacts:
    """The facts of a MetaGraphDef."""
    ops = {node.op for node in _nodes(meta_graph)}
    return GraphFacts(
        MappingProxyType(_signatures(meta_graph)),
        MappingProxyType(_as_json(meta_graph)),
        is_brittle(ops),
        not any(part in op for op in _asked_ops(meta_graph) for part in _STATEFUL),
        not ops.isdisjoint(_VARIABLE_OPS),
    )


def read_facts(path: str, tags: Sequence[str]) -> GraphFacts:
    """The facts of the version in folder ``path``: of its graph with exactly these tags.

    Raises:
        ServingError: NOT_FOUND: there is no ``saved_model.pb``, or none with these tags; DATA_LOSS: it is broken.
    """
    message = saved_model_pb2.SavedModel()
    try:
        with open(os.path.join(path, "saved_model.pb"), "rb") as file:
            message.ParseFromString(file.read())
    except OSError as error:
        raise ServingError(Code.NOT_FOUND, str(error)) from None
    except DecodeError as error:
        raise ServingError(Code.DATA_LOSS, f"{path}/saved_model.pb: {error}") from None
    for meta_graph in message.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return facts_of(meta_graph)
    raise ServingError(Code.NOT_FOUND, f"{path}/saved_model.pb has no graph tagged {', '.join(tags)}")


def _nodes(meta_graph: Any) -> list[Any]:
    """All nodes of the graph and of its functions."""
    graph = meta_graph.graph_def
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def _asked_ops(meta_graph: Any) -> set[str]:
    """The op types of all that requests may reach: not of the functions that restored the variables."""
    graph = meta_graph.graph_def
    functions = (one for one in graph.library.function if "traced_restore" not in one.signature.name)
    return {node.op for node in graph.node} | {node.op for one in functions for node in one.node_def}


def _signatures(meta_graph: Any) -> dict[str, Signature]:
    return {
        name: Signature(
            name=name,
            method_name=definition.method_name,
            inputs={alias: _spec(definition.inputs[alias]) for alias in sorted(definition.inputs)},
            outputs={alias: _spec(definition.outputs[alias]) for alias in sorted(definition.outputs)},
            defaults={alias: to_array(value) for alias, value in definition.defaults.items()},
        )
        for name, definition in sorted(meta_graph.signature_def.items())
    }


def _spec(info: Any) -> TensorSpec:
    if info.dtype == 0:  # an operation, not a tensor: TF2 exports list their init op among the signatures
        return TensorSpec(name="", dtype="invalid", shape=None)
    number = info.dtype - _REFERENCES if info.dtype > _REFERENCES else info.dtype
    name = types_pb2.DataType.Name(number).removeprefix("DT_").lower()  # these are the C++ names
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    dense = info.WhichOneof("encoding") == "name"
    return TensorSpec(name=info.name if dense else "", dtype=name, shape=shape)


def _as_json(meta_graph: Any) -> dict[str, Any]:
    return {
        name: json_format.MessageToDict(
            definition, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
        )
        for name, definition in sorted(meta_graph.signature_def.items())
    }
