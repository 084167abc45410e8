"""Keys made against the database itself. The work is done by a process of its own: nothing here loads a database."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from modelyard.exits import Exit
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.options import environment
from shared.settings import Settings

_EXITS = {
    "no_keys": Exit.OPEN_TO_ALL,
    "invalid_input": Exit.INVALID,
    "key_not_found": Exit.NOT_FOUND,
    "store_unavailable": Exit.UNAVAILABLE,
}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def local_keys(
    settings: Settings, base_env: dict[str, str], *arguments: str, body: dict[str, Any] | None = None
) -> Any:
    """What ``python -m services.api.access`` says.

    Raises:
        LaunchError: it refused, with its reason.
    """
    argv = [sys.executable, "-m", "services.api.access", *arguments]
    done = subprocess.run(
        argv,
        env=environment(base_env, settings),
        input=json.dumps(body or {}).encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        said = json.loads(done.stdout)
    except ValueError:
        raise LaunchError(
            f"`{' '.join(argv)}` ended with {done.returncode}; what it said is above.",
            exit_code=Exit.INTERNAL,
        ) from None
    if error := said.get("error"):
        code = _EXITS.get(error["code"], Exit.CONFLICT)
        raise LaunchError(error["message"], exit_code=code, hint=error.get("hint"))
    return said


def check_locked(settings: Settings, base_env: dict[str, str]) -> None:
    """An address that others can reach needs an API key.

    Raises:
        LaunchError: there is none.
    """
    if settings.host not in _LOOPBACK:  # the others of loopback cost a second more
        local_keys(settings, base_env, "check")
