"""Predict requests that are answered at once, on the thread that reads the connections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.serving.errors import ServingError
from services.serving.inference import Target
from services.serving.npy import NPY
from services.serving.packing import PACKED, WORTH_PACKING, pack, takes_gzip
from services.serving.plain_predict import PlainPredictions
from services.serving.routes import VersionTooLarge, parse_route
from services.serving.telemetry import Telemetry
from services.serving.trace import Trace
from shared.wire import Answer, Connection, Head
from shared.wire.connection import Reply

# Larger bodies take so long to read that other connections would feel it.
_QUICK_BYTES = 2**20
JSON_TYPE = (b"content-type", b"application/json")
NPY_TYPE = (b"content-type", NPY)
_QUICKLY_PACKED = 128 * 2**10  # bytes
_PREDICT = re.compile(rb"/v1/models/[^?]*:predict(?:\?[^?]*)?")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a head says; a client's next request often has the same one."""

    target: Target
    binary: bool
    query: str
    as_npy: bool
    request_id: str
    packs: bool  # long answers
    headers: list[tuple[bytes, bytes]]  # of the answer, but for the version


class QuickPredictions:
    """For versions on LiteRT whose calls take less than a thread's switch; whatever else is asked is left alone.

    Refusals, too, are left to ``RestApp``: nothing is answered here but 200.
    """

    def __init__(
        self, plain: PlainPredictions, telemetry: Telemetry, cors: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._plain = plain
        self._telemetry = telemetry
        self._cors = tuple(cors)

    def takes(self, head: Head) -> bool:
        """See ``Quick.takes``."""
        if head.note is None:
            head.note = self._read(head) or False
        return head.note is not False

    def answer(self, head: Head, body: bytes, reply: Reply, connection: Connection) -> bool:
        """See ``Quick.answer``."""
        asked: _Asked = head.note
        target = asked.target
        trace = Trace("REST", "predict", target.model, request_bytes=len(body), request_id=asked.request_id)
        try:
            if asked.binary:
                found = self._plain.predict_npy(
                    target, body, asked.query, trace, as_npy=asked.as_npy, only_quick=True
                )
            else:
                found = self._plain.predict(target, body, trace, only_quick=True)
        except ServingError:
            return False
        if found is None:
            return False
        answer = found.body
        headers = [*asked.headers, (b"x-model-version", b"%d" % found.version)]
        if asked.packs and len(answer) >= WORTH_PACKING:
            if len(answer) > _QUICKLY_PACKED:
                return False
            answer = pack(answer)
            headers += PACKED
        # before the answer goes out, so that whoever has it finds it counted
        self._telemetry.finish_quickly(trace, len(answer))
        reply(Answer(200, headers, answer))
        return True

    def _read(self, head: Head) -> _Asked | None:
        if (
            head.method != "POST"
            or head.length > _QUICK_BYTES
            or _PREDICT.fullmatch(head.target) is None
            or head.header(b"content-encoding")
        ):
            return None
        binary = head.header(b"content-type").partition(b";")[0].strip().lower() == NPY
        path, mark, query = head.target.decode("latin-1").partition("?")
        target = _target(path)
        if target is None or (mark and not binary):
            return None
        as_npy = binary and NPY in head.header(b"accept")
        request_id = head.header(b"x-request-id")
        headers = [NPY_TYPE if as_npy else JSON_TYPE, *self._cors]
        if request_id:
            headers.append((b"x-request-id", request_id))
        packs = takes_gzip(head.headers)
        return _Asked(target, binary, query, as_npy, request_id.decode("latin-1"), packs, headers)


@lru_cache(maxsize=256)
def _target(path: str) -> Target | None:
    try:
        route = parse_route("POST", path)
    except (ServingError, VersionTooLarge):
        return None
    return route.target if route.verb == "predict" else None
