"""``python -m services.api``: serve; ``python -m services.api openapi``: print the API's description."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
from typing import Any, cast

import uvicorn

from services.api.access.opening import check_address
from services.api.app import create_app
from services.api.fleet import Fleet, end_with_stdin, own_spread, shared_socket
from services.api.spread import Spread
from shared.errors import Misconfigured, ModelyardError
from shared.logs import set_up
from shared.settings import Settings
from shared.wire.uvicorn_wire import Wire

# Streams end by themselves when the server stops; anything else gets this long.
GRACEFUL_SECONDS = 5
BACKLOG = 2048
OPEN_TO_ALL = 3  # exit code

# A request makes and drops some hundred objects: the youngest are looked at after a few dozen requests, not after each.
COLLECT = (10_000, 20, 20)
# How long a thread that asks the store or writes a log may keep the event loop from running: Python's 5 ms are as long
# as some predictions.
SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Ends the live streams before it waits for open requests."""

    spread: Spread | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.spread is not None and self.started:
            self.spread.join(self)
        # what is there now stays: a full collection need not walk through it in the middle of a request
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT)
        sys.setswitchinterval(SWITCH_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.spread is not None:
            self.spread.leave()
        resources = getattr(getattr(self.config.app, "state", None), "resources", None)
        if resources is not None:
            resources.watch.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> int:
    """Run until TERM or INT; returns the exit code."""
    set_up(settings.log_level, settings.log_format, part="api", pid=os.getpid())
    for noisy in ("httpx", "httpcore", "celery", "kombu", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not settings.share_port:  # else the process that shares it has looked
        try:
            check_address(settings)
        except ModelyardError as error:
            log.error("%s %s", error.message, error.hint or "")
            return OPEN_TO_ALL if isinstance(error, Misconfigured) else 1
    if settings.api_processes > 1:
        return Fleet(settings).run()
    spread = own_spread() if settings.share_port else None
    server = _Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http=cast(
                Any, spread.wire if spread is not None else Wire
            ),  # asyncio's two kinds of protocols have no common type
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            backlog=BACKLOG,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=settings.trusted_proxies,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
        )
    )
    server.spread = spread
    for number in (signal.SIGINT, signal.SIGTERM):
        # until uvicorn listens to signals; and it raises the one that stopped it once more when it is done, which is
        # a good end, not a crash
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    if settings.share_port:
        end_with_stdin()
        server.run(sockets=[shared_socket(settings.host, settings.port)])
    else:
        server.run()
    return 0 if server.started else 1


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done, 1 could not start, 2 wrong usage, 3 it would be open to others: there is no API key."""
    if arguments == ["openapi"]:
        # the description does not depend on any setting
        described = create_app(Settings.model_construct()).openapi()
        sys.stdout.write(json.dumps(described, indent=2, ensure_ascii=False) + "\n")
        return 0
    if arguments:
        sys.stderr.write("usage: python -m services.api [openapi]\n")
        return 2
    return serve(Settings())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
