"""What ``modelyard up`` was asked for: settings from the environment, overlaid by the command line."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr, ValidationError

from modelyard.exits import Exit
from modelyard.launcher.errors import LaunchError
from shared.settings import Settings


def load_settings(
    *,
    home: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    slots: int | None = None,
    api_processes: int | None = None,
    allow_paths: list[Path] | None = None,
    code: list[Path] | None = None,
) -> Settings:
    """Read ``MODELYARD_*``; an option that is given wins. Port 0 stands for any free port, chosen by the caller.

    Raises:
        LaunchError: a setting is wrong; names the variable.
    """
    given = {"home": home, "host": host, "port": port, "slots": slots, "api_processes": api_processes}
    chosen: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if allow_paths:
        chosen["allowed_paths"] = tuple(path.expanduser().resolve() for path in allow_paths)
    if code:
        chosen["code_dirs"] = tuple(path.expanduser().resolve() for path in code)
    try:
        return Settings(**chosen)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        source = f"--{name.replace('_', '-')}" if name in chosen else f"MODELYARD_{name.upper()}"
        raise LaunchError(
            f"{source}={first.get('input')!r}: {first['msg']}.", exit_code=Exit.MISCONFIGURED
        ) from None


def environment(base: dict[str, str], settings: Settings) -> dict[str, str]:
    """The environment of every part: ``base`` with the settings as they were resolved here.

    Only what was set is passed on, so that a part's own defaults stay its own.
    """
    values = {**base, "MODELYARD_HOME": str(settings.paths.root)}
    for name in settings.model_fields_set - {"home"}:
        variable = f"MODELYARD_{name.upper()}"
        value = getattr(settings, name)
        if value is not None and f"{variable}_FILE" not in base:  # a part may not find it given both ways
            values[variable] = _text(value)
    # A folder named `services` or `shared` where the user happens to stand must not shadow ours.
    values["PYTHONSAFEPATH"] = "1"
    values["PYTHONUNBUFFERED"] = "1"
    return values


def _text(value: object) -> str:
    """A setting as ``Settings`` reads it from a variable."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, tuple):
        return (":" if isinstance(next(iter(value), None), Path) else " ").join(map(str, value))
    return str(value)


def base_url(host: str, port: int) -> str:
    """Where a client on this machine reaches a server that listens on ``host``."""
    if host in ("0.0.0.0", ""):  # noqa: S104 (compared, not bound)
        host = "127.0.0.1"
    if host == "::":
        host = "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
