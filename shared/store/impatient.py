"""A PostgreSQL connection that gives up on a server that says nothing.

A server that is cut off the network or frozen sends no end of file: without a bound a query waits until TCP gives up,
many minutes, or for ever. ``connect_timeout`` bounds only the connecting, ``statement_timeout`` is the server's own.
(libpq has no timeout for queries: postgresql.org/docs/current/libpq-connect.html)
"""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import Ready

# Longer than any lock or statement of ours may take.
SILENCE_SECONDS = 20.0
# The kernel's own bounds, for a connection that nobody waits on: a probe after 10 s, three in all.
KEEP_ALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


class ImpatientConnection(psycopg.Connection[Any]):
    """Closes itself and raises ``OperationalError`` when the server has sent nothing for ``SILENCE_SECONDS``."""

    def wait(self, gen: PQGen[Any], *args: Any, **kwargs: Any) -> Any:
        """As psycopg's, which asks again every 0.1 s."""
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: PQGen[Any]) -> PQGen[Any]:
        heard = time.monotonic()
        try:
            state = next(gen)
            while True:
                ready = yield state
                now = time.monotonic()
                if ready != Ready.NONE:
                    heard = now
                elif now - heard > SILENCE_SECONDS:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server has said nothing for {SILENCE_SECONDS:.0f} s")
                state = gen.send(ready)
        except StopIteration as end:
            return end.value
