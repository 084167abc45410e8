"""Predictions without ASGI, for callers that are known and requests in which nothing is unusual.

A scope, its middlewares and their messages cost more than a small model's answer. What the edge and the door do for a
request is done here too, by the same functions (``accounts``, ``access.checks``, ``access.throttle``,
``access.headers``), as far as it takes no waiting and no refusing. Anything else is left as it came to the application:
a key that must be looked up, a limit that is reached, a body that is too large, a page of another site.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from services.api.access.asked import UNKNOWN, Asked
from services.api.access.checks import body_limit, caller_at_hand, check_role
from services.api.access.headers import DATA_LINES, without_ours
from services.api.access.rules import Found, Rules
from services.api.accounts import account, given_id, new_id
from services.api.errors import unexpected
from services.api.hot_path import Call, Given, Hot, answered, hot_route, plain
from services.api.keep_alive import Headers
from services.api.resources import Resources
from shared.errors import ModelyardError
from shared.logs import bind, bound
from shared.settings import Settings
from shared.wire import Answer, Connection, Head
from shared.wire.connection import Reply

MIB = 2**20
# Up to here a body is read before its sender is known; up to there it is held in memory.
OF_STRANGERS = 64 * 1024
MOST = 16 * MIB


class _Known:
    """What a head says. A client's next request often has the same one, and finds this with it."""

    __slots__ = ("asked", "found", "hot", "path", "query", "raw_path", "request_id")

    def __init__(self, hot: Hot, path: str, raw_path: bytes, query: bytes, head: Head, found: Found) -> None:
        self.hot = hot
        self.path, self.raw_path, self.query = path, raw_path, query
        self.found = found
        self.asked = Asked(head.headers, None)
        self.request_id = given_id(head.headers)


class Express:
    """A ``shared.wire.Quick``. Belongs to one event loop."""

    def __init__(self, resources: Resources, settings: Settings) -> None:
        self._resources = resources
        self._most = min(settings.max_body_mb * MIB, MOST)
        self._behind_proxy = bool(settings.trusted_proxies)  # then a header says who calls
        self._rules = Rules()
        self._under_way: set[asyncio.Task[None]] = set()

    def takes(self, head: Head) -> bool:
        """See ``Quick.takes``."""
        known = head.note
        if known is None:
            known = head.note = self._read(head)
        return isinstance(known, _Known) and (
            head.length <= OF_STRANGERS or self._is_no_stranger(known.asked)
        )

    def answer(self, head: Head, body: bytes, reply: Reply, connection: Connection) -> bool:
        """See ``Quick.answer``."""
        began = time.perf_counter()
        known: _Known = head.note
        known.asked.address = connection.client[0] if connection.client else UNKNOWN
        extra = self._admit(known, head)
        if extra is None:
            return False
        request_id = known.request_id or new_id()
        call = Call(head.method, known.path, known.raw_path, known.query, head.headers, body, request_id)
        _Lane(self._resources, known.hot, call, extra, reply, began, self._under_way).start()
        return True

    def _read(self, head: Head) -> _Known | bool:
        """False: this is not for here."""
        raw_path, _, query = head.target.partition(b"?")
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        hot = hot_route(head.method, path, head.headers, MOST)
        if hot is None or head.length > self._most:
            return False
        found = self._rules.of(head.method, path)
        known = _Known(hot, path, raw_path, query, head, found)
        if found.rule.audited or found.rule.public or (self._behind_proxy and known.asked.forwarded):
            return False
        return known

    def _is_no_stranger(self, asked: Asked) -> bool:
        access = self._resources.access
        return not access.lock.locked or (asked.given is not None and access.callers.seen(asked.given))

    def _admit(self, known: _Known, head: Head) -> Headers | None:
        """What the answer tells of the caller's limit; None: that takes more than is at hand, or is to be refused."""
        access, found = self._resources.access, known.found
        try:
            principal = caller_at_hand(access, known.asked, head.method, found)
            if principal is None:
                return None
            check_role(principal, head.method, known.path, found)
        except ModelyardError:
            return None
        limit = body_limit(access, principal, upload=False)
        if limit is not None and head.length > limit[0] * MIB:
            return None
        item = access.throttle.limit(principal, found.rule.kind)
        if item is None:
            return []
        allowance = access.throttle.spend_at_hand(item, principal, found.rule.kind)
        return None if allowance is None else allowance.headers()


class _Lane:
    """One request on its way; see ``hot_path.Lane``."""

    __slots__ = ("_began", "_bound", "_call", "_extra", "_given", "_hot", "_reply", "_resources", "_tasks")

    def __init__(
        self,
        resources: Resources,
        hot: Hot,
        call: Call,
        extra: Headers,
        reply: Reply,
        began: float,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._resources = resources
        self._hot = hot
        self._call = call
        self._extra = extra
        self._reply = reply
        self._began = began
        self._tasks = tasks
        self._given = False
        self._bound = bound(request_id=call.request_id)

    def start(self) -> None:
        """Answer it, now or later."""
        self.step(self._start)()

    def _start(self) -> None:
        if not self._hot.at_hand(self._resources, self._call, self):
            self.go_on(self._hot.answer(self._resources, self._call))

    def step(self, step: Callable[[*Given], None]) -> Callable[[*Given], None]:
        """See ``Lane.step``."""

        def run(*given: *Given) -> None:
            with self._bound:
                try:
                    step(*given)
                except Exception as error:
                    self.give(plain(unexpected(error, self._call.request_id)))

        return run

    def give(self, answer: Answer) -> None:
        """See ``Lane.give``."""
        if self._given:
            return
        self._given = True
        call = self._call
        headers = without_ours(answer.headers)
        headers += self._extra
        headers.append((b"x-request-id", call.request_id.encode("ascii")))
        self._reply(Answer(answer.status, headers, answer.body, DATA_LINES))
        account(
            self._resources.telemetry,
            call.method,
            call.path,
            route=self._hot.path,
            status=answer.status,
            seconds=time.perf_counter() - self._began,
            streamed=False,
            request_id=call.request_id,
        )

    def go_on(self, rest: Awaitable[Answer]) -> None:
        """See ``Lane.go_on``."""
        task = asyncio.get_running_loop().create_task(self._await(rest))
        self._tasks.add(task)  # the loop itself would let it be collected
        task.add_done_callback(self._tasks.discard)

    async def _await(self, rest: Awaitable[Answer]) -> None:
        request_id = self._call.request_id
        bind(request_id=request_id)
        try:
            answer = await answered(rest, request_id)
        except Exception as error:
            answer = plain(unexpected(error, request_id))
        self.give(answer)
