"""Keys made on the spot: what the process that makes them refuses, as the command line says it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from modelyard.exits import Exit
from modelyard.launcher.errors import LaunchError
from modelyard.launcher.keys import local_keys
from shared.settings import Settings


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("invalid_input", Exit.INVALID),
        ("key_not_found", Exit.NOT_FOUND),
        ("first_key_not_admin", Exit.CONFLICT),
        ("no_keys", Exit.OPEN_TO_ALL),
    ],
)
def test_what_is_refused_has_its_exit_code(
    code: str, expected: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = json.dumps({"error": {"code": code, "message": "no", "hint": "so"}}).encode()

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(argv, 1, said)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(LaunchError, match="no") as caught:
        local_keys(Settings(), {}, "create", body={})
    assert (caught.value.exit_code, caught.value.hint) == (expected, "so")
