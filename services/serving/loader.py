"""SavedModels to servables. The only module that imports TensorFlow, when one is loaded that needs it.

Graphs run through a TensorFlow 1 session, because ``tf.compat.v1.saved_model.load`` returns all signatures with
method and tensor names, runs the init ops, and takes TF1 and TF2 exports alike. Calls go through a session
callable: ``Session.run`` refuses feeds of another shape than declared, which the contract allows, and costs 5
times as much per call.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.serving.errors import CODES_BY_NUMBER, Code, ServingError
from services.serving.graph import GraphFacts, facts_of
from services.serving.integrity import missing_part
from services.serving.protos import import_lock
from services.serving.shapes import check_shapes
from services.serving.signature import Array, Signature

_tensorflow: Any = None


@dataclass(frozen=True)
class LoaderOptions:
    """How sessions are made. 0 threads = one per core; timeout 0 = none."""

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    timeout_ms: int = 0
    tags: tuple[str, ...] = ("serve",)
    session_config: str = ""  # a ConfigProto in text form; the other fields win
    gpu_memory_fraction: float = 0.0
    bfloat16: bool = False  # where oneDNN can


@contextmanager
def _without_keras() -> Iterator[None]:
    """While TensorFlow is imported. It loads Keras at its end, for what Keras registers there, and does without where
    Keras is not installed. Sessions never ask for it: 40 % of the seconds and a hundred megabytes are saved. Who asks
    for ``tensorflow.keras`` later gets it.
    """
    blocked = [name for name in ("keras", "tf_keras") if name not in sys.modules]
    for name in blocked:
        sys.modules[name] = None  # type: ignore[assignment] # the documented way to make an import fail
    try:
        yield
    finally:
        for name in blocked:
            del sys.modules[name]


def import_tensorflow() -> Any:
    """TensorFlow, imported once. Takes seconds the first time; safe to call from any thread."""
    global _tensorflow  # noqa: PLW0603 - a module is a process-wide thing anyway
    with import_lock:
        if _tensorflow is None:
            with _without_keras():
                import tensorflow

            # Its Python side warns about every use of a TF1 name, and TF1 names are what is used here.
            logging.getLogger("tensorflow").setLevel(logging.ERROR)
            # TensorFlow's million import-time objects live for ever: keep the collector from walking them
            # on each of its full rounds (43 ms against 5 ms for a request that makes many small lists).
            gc.collect()
            gc.freeze()
            _tensorflow = tensorflow
    return _tensorflow


class SavedModel:
    """A SavedModel in a session of its own; a ``Servable``."""

    def __init__(self, session: Any, facts: GraphFacts, options: LoaderOptions) -> None:
        self._session = session
        self._options = options
        self._callables: dict[str, Any] = {}
        self._brittle = facts.brittle
        self.stateless = facts.stateless
        self.signatures = facts.signatures
        self.signature_def_json = facts.signature_def_json
        # Made now, not at the first request: pruning a graph takes milliseconds, and a signature that can't
        # run should say so in the log of the load.
        for signature in self.signatures.values():
            if signature.outputs:
                self._callables[signature.name] = self._make_callable(signature)

    def _make_callable(self, signature: Signature) -> Any:
        """The session's callable, or the error that stands in its place."""
        from tensorflow.core.protobuf import config_pb2

        specs = [*signature.inputs.values(), *signature.outputs.values()]
        if not all(spec.name for spec in specs):
            return ServingError(
                Code.UNIMPLEMENTED,
                f"Signature {signature.name} has sparse or composite tensors, which can't be served",
            )
        run_options = config_pb2.RunOptions(timeout_in_ms=self._options.timeout_ms)
        try:
            return self._session._make_callable_from_options(
                config_pb2.CallableOptions(
                    feed=[spec.name for spec in signature.inputs.values()],
                    fetch=[spec.name for spec in signature.outputs.values()],
                    run_options=run_options,
                )
            )
        except Exception as error:
            return as_serving_error(error)

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        *,
        timeout: float | None = None,
        only: Sequence[str] = (),
    ) -> dict[str, Array]:
        """See ``Servable.run``. Feeds go in by position, so ``inputs`` must hold every input alias."""
        if self._brittle:
            check_shapes(signature, inputs)
        target = self._callables.get(signature.name)
        if target is None:
            raise ServingError(Code.INVALID_ARGUMENT, "Must specify at least one target to fetch or execute.")
        if isinstance(target, ServingError):
            raise target
        names = only or tuple(signature.outputs)
        try:
            if timeout is None and not only:
                results = target(*[inputs[alias] for alias in signature.inputs])
            else:
                results = self._run_once(signature, inputs, names, timeout)
        except Exception as error:
            raise as_serving_error(error) from error
        return dict(zip(names, map(np.asarray, results), strict=True))

    def _run_once(
        self, signature: Signature, inputs: Mapping[str, Array], names: Sequence[str], timeout: float | None
    ) -> Any:
        """A call with options of its own, which a callable can't take. Shapes aren't checked here either."""
        from tensorflow.core.protobuf import config_pb2
        from tensorflow.python.client import pywrap_tf_session

        find = self._session.graph.get_tensor_by_name
        feeds = {find(spec.name)._as_tf_output(): inputs[alias] for alias, spec in signature.inputs.items()}
        fetches = [find(signature.outputs[name].name)._as_tf_output() for name in names]
        if timeout is None:
            milliseconds = self._options.timeout_ms
        else:
            milliseconds = 0 if math.isinf(timeout) else max(1, math.ceil(timeout * 1000))
        buffer = pywrap_tf_session.TF_NewBufferFromString(
            config_pb2.RunOptions(timeout_in_ms=milliseconds).SerializeToString()
        )
        try:
            return self._session._call_tf_sessionrun(buffer, feeds, fetches, [], None)
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)

    def close(self) -> None:
        """Free the graph and its variables. Callables are released first: they point into the session."""
        self._callables.clear()
        self._session.close()
        self._session = None
        gc.collect()  # graphs are cyclic; TensorFlow's own objects are frozen, so this is short


def load_saved_model(path: str, options: LoaderOptions) -> SavedModel:
    """Load the version in folder ``path``.

    Raises:
        ServingError: NOT_FOUND or FAILED_PRECONDITION for an incomplete folder, else TensorFlow's own code.
    """
    missing = missing_part(path)
    if missing is not None:
        raise ServingError(Code.NOT_FOUND, missing)
    tensorflow = import_tensorflow()
    v1 = tensorflow.compat.v1
    session = v1.Session(graph=tensorflow.Graph(), config=_session_config(v1, options))
    try:
        with session.graph.as_default():
            meta_graph = v1.saved_model.load(session, list(options.tags), path)
        facts = facts_of(meta_graph)
        # TensorFlow takes missing variables for "this model has none" and fails at each predict instead.
        if facts.has_variables and not os.path.exists(os.path.join(path, "variables", "variables.index")):
            raise ServingError(Code.FAILED_PRECONDITION, f"Incomplete version: {path}/variables is missing")
        return SavedModel(session, facts, options)
    except ServingError:
        session.close()
        raise
    except Exception as error:
        session.close()
        raise as_serving_error(error) from error


def _session_config(v1: Any, options: LoaderOptions) -> Any:
    from google.protobuf import text_format

    config = v1.ConfigProto(allow_soft_placement=True)
    try:
        text_format.Parse(options.session_config, config)
    except text_format.ParseError as error:
        raise ServingError(
            Code.INVALID_ARGUMENT, f"--tensorflow_session_config_file is no ConfigProto text proto: {error}"
        ) from None
    if options.intra_op_threads:
        config.intra_op_parallelism_threads = options.intra_op_threads
    if options.inter_op_threads:
        config.inter_op_parallelism_threads = options.inter_op_threads
    if options.gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = options.gpu_memory_fraction
    if options.bfloat16:
        rewriting = config.graph_options.rewrite_options
        rewriting.auto_mixed_precision_onednn_bfloat16 = type(rewriting).ON
    return config


def as_serving_error(error: Exception) -> ServingError:
    """TensorFlow's errors keep their code; anything else is INTERNAL, or what its type says."""
    number = getattr(error, "error_code", None)
    if isinstance(number, int) and 0 < number < len(CODES_BY_NUMBER):
        return ServingError(CODES_BY_NUMBER[number], str(getattr(error, "message", error)))
    if isinstance(error, OSError):
        return ServingError(Code.NOT_FOUND, str(error))
    if isinstance(error, ValueError | TypeError):
        return ServingError(Code.INVALID_ARGUMENT, str(error))
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
