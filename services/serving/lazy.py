"""Versions that answer before, and mostly without, TensorFlow.

A version whose LiteRT model was compared with its SavedModel when it was published, and whose files are still
those, is served from the LiteRT model at once. What only the SavedModel can answer (other signatures, NaN, wrong
shapes) loads it, and TensorFlow with it, when it is first asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.serving.errors import Code, ServingError
from services.serving.graph import GraphFacts, read_facts
from services.serving.litert import LitertServable, LitertSignature, published, seconds_a_row, verified
from services.serving.shapes import check_shapes
from services.serving.signature import DEFAULT_SIGNATURE, Array, Servable, Signature

log = logging.getLogger("serving.lazy")

Open = Callable[[str], Servable]
# Slower models are better compared with TensorFlow, which has several threads for one call.
_QUICK_SECONDS = 0.002


class LazySavedModel:
    """A ``Servable`` that is loaded by ``open_`` when it is first run."""

    def __init__(self, path: str, facts: GraphFacts, open_: Open) -> None:
        self._path = path
        self._facts = facts
        self._open = open_
        self._lock = threading.Lock()
        self._servable: Servable | None = None
        self._closed = False

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._facts.signatures

    @property
    def signature_def_json(self) -> Mapping[str, Any]:
        return self._facts.signature_def_json

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        *,
        timeout: float | None = None,
        only: Sequence[str] = (),
    ) -> dict[str, Array]:
        """See ``Servable.run``."""
        if self._facts.brittle:
            check_shapes(signature, inputs)  # no need of TensorFlow to refuse these
        why = f"for a request to {signature.name} that LiteRT can't answer"
        return self._opened(why).run(signature, inputs, timeout=timeout, only=only)

    def load_ahead(self) -> None:
        """Load it before a request needs it, if it is still wanted; who needs it later hears of what goes wrong."""
        try:
            self._opened("ahead of requests")
        except ServingError as error:
            log.warning("%s: %s", self._path, error.message)

    def _opened(self, why: str) -> Servable:
        with self._lock:
            if self._closed:
                raise ServingError(Code.UNAVAILABLE, f"{self._path} is being unloaded")
            if self._servable is None:
                began = time.monotonic()
                if verified(self._path) is None:
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"The files of {self._path} have changed since it was loaded; this request needs them",
                    )
                self._servable = self._open(self._path)
                seconds = time.monotonic() - began
                log.info("%s: TensorFlow loaded it in %.2f s, %s", self._path, seconds, why)
            return self._servable

    def close(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._closed = True
            if self._servable is not None:
                self._servable.close()


def litert_first(path: str, tags: Sequence[str], open_: Open) -> LitertServable | None:
    """The version in folder ``path`` on LiteRT, with ``open_`` for the rest; None: it must be loaded the whole way."""
    try:
        content = verified(path)
        if content is None:
            if published(path):
                log.info(
                    "%s: nothing proves that its LiteRT model answers as its SavedModel; comparing", path
                )
            return None
        facts = read_facts(path, tags)
        litert = LitertSignature(content, facts.signatures[DEFAULT_SIGNATURE])
        seconds = seconds_a_row(litert)
    except (ImportError, OSError, ValueError, KeyError, TypeError, RuntimeError, ServingError) as error:
        log.warning("%s: its LiteRT model is not used by itself: %s", path, error)
        return None
    if seconds > _QUICK_SECONDS:
        return None
    litert.alone()
    log.info("%s: %s runs on LiteRT (%.3f ms a row)", path, DEFAULT_SIGNATURE, seconds * 1000)
    ready = frozenset({DEFAULT_SIGNATURE})
    return LitertServable(LazySavedModel(path, facts, open_), litert, quick=True, ready=ready)


def rest_of(servable: Servable) -> LazySavedModel | None:
    """The part of a version on LiteRT that is still to be loaded, if it has signatures of its own."""
    if not isinstance(servable, LitertServable) or not isinstance(servable.inner, LazySavedModel):
        return None
    ready = servable.ready or frozenset()
    # TF2 exports list their init op among the signatures; nobody can call that
    others = (one for name, one in servable.signatures.items() if name not in ready and one.inputs)
    return servable.inner if any(others) else None
