"""``python -m services.api``: serve; ``python -m services.api openapi``: print the API's description."""

from __future__ import annotations

import gc
import json
import logging
import signal
import socket
import sys

import uvicorn

from services.api.app import create_app
from services.api.fleet import Fleet, end_with_stdin, shared_socket
from shared.settings import Settings

# Streams end by themselves when the server stops; anything else gets this long.
GRACEFUL_SECONDS = 5
BACKLOG = 2048


class _Server(uvicorn.Server):
    """Ends the live streams before it waits for open requests."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # what is there now stays: a full collection need not walk through it in the middle of a request
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        resources = getattr(getattr(self.config.app, "state", None), "resources", None)
        if resources is not None:
            resources.watch.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> int:
    """Run until TERM or INT; returns the exit code."""
    logging.basicConfig(
        level=settings.log_level, format="%(levelname)-7s %(name)s  %(message)s", stream=sys.stderr
    )
    for noisy in ("httpx", "httpcore", "celery", "kombu", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if settings.api_processes > 1:
        return Fleet(settings).run()
    server = _Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            backlog=BACKLOG,
            server_header=False,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
        )
    )
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
    """Exit codes: 0 done, 1 could not start, 2 wrong usage."""
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
