"""What the measurement needs and the project doesn't: wrk, and an environment for each of the other model servers.

Both lie in ``$MODELYARD_BENCH_CACHE`` (``~/.cache/modelyard-bench``) and are made when they are first wanted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.worker.training.data import apt

CACHE = Path(os.environ.get("MODELYARD_BENCH_CACHE", Path.home() / ".cache" / "modelyard-bench"))
PEERS = Path(__file__).with_name("peers")
_DEBIAN = ("wrk", "libluajit-5.1-2")


@dataclass(frozen=True)
class Wrk:
    """https://github.com/wg/wrk, a load generator in C."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def wrk() -> Wrk:
    """The one on PATH, or Debian's, unpacked into the cache.

    Raises:
        RuntimeError: there is neither.
    """
    found = shutil.which("wrk")
    if found:
        return Wrk((found,))
    place = CACHE / "wrk"
    program = place / "usr" / "bin" / "wrk"
    if not program.exists():
        try:
            apt.unpack(_DEBIAN, place)
        except apt.NotAvailable as error:
            raise RuntimeError(f"no wrk on PATH, and Debian's can't be had ({error}): install wrk") from error
    libraries = next(place.rglob("libluajit-5.1.so.2"), None)
    return Wrk((str(program),), {"LD_LIBRARY_PATH": str(libraries.parent)} if libraries else {})


def peer(name: str) -> Path:
    """The bin folder of the environment that ``peers/<name>.txt`` locks.

    Raises:
        subprocess.CalledProcessError: it can't be installed here.
    """
    locked = PEERS / f"{name}.txt"
    stamp = hashlib.sha256(locked.read_bytes()).hexdigest()
    place = CACHE / name
    mark = place / "stamp"
    if not mark.exists() or mark.read_text() != stamp:
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            str(locked),
        ]
        subprocess.run([str(place / "bin" / "python"), *install], check=True, stdout=subprocess.DEVNULL)
        mark.write_text(stamp)
    return place / "bin"
