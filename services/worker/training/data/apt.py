"""Debian packages fetched and unpacked into a folder: nothing is installed, and no root is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# `apt-get --simulate install` says "Inst NAME [OLD] (NEW SUITE [ARCH])" for each package that it would bring
_WOULD_INSTALL = re.compile(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", re.MULTILINE)


class NotAvailable(Exception):
    """The packages can't be had on this machine, with the reason."""


def unpack(
    packages: tuple[str, ...], target: Path, *, dependencies: bool = False, seconds: float = 120
) -> None:
    """Lay the files of ``packages`` below ``target`` as they would lie below ``/``.

    Args:
        packages: names, from the suites that this machine's apt knows.
        target: is made; what it holds is overwritten.
        dependencies: also bring what they need (not what they recommend) and this machine has not installed.
        seconds: how long each step may take.

    Raises:
        NotAvailable: no apt-get here, no such package, no way to the mirror.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise NotAvailable("this machine has no apt-get")
    with tempfile.TemporaryDirectory(prefix="modelyard-apt-") as name:
        run = _Runner(Path(name), seconds)
        try:
            _download(run, packages, [], dependencies)
        except NotAvailable:
            # A fresh machine has no package lists, or old ones, and updating the system's needs root: use our own.
            lists = _private_lists(run.folder)
            run("apt-get", *lists, "update")
            _download(run, packages, lists, dependencies)
        target.mkdir(parents=True, exist_ok=True)
        for package in sorted(run.folder.glob("*.deb")):
            run("dpkg", "-x", str(package), str(target))


@dataclass(frozen=True)
class _Runner:
    folder: Path
    seconds: float

    def __call__(self, *command: str) -> str:
        try:
            done = subprocess.run(
                command, cwd=self.folder, capture_output=True, text=True, timeout=self.seconds, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotAvailable(f"{' '.join(command[:2])}: {error}") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise NotAvailable(f"{command[0]} failed: {(lines or [done.stderr[-200:]])[-1].strip()}")
        return done.stdout


def _download(run: _Runner, packages: tuple[str, ...], options: list[str], dependencies: bool) -> None:
    wanted = list(packages)
    if dependencies:
        plan = run("apt-get", *options, "--simulate", "--no-install-recommends", "install", *packages)
        # what is installed already is fetched too when it is asked for by name: the caller looks below `target`
        wanted += [
            f"{name}={version}" for name, version in _WOULD_INSTALL.findall(plan) if name not in packages
        ]
    run("apt-get", *options, "download", *wanted)
    if not any(run.folder.glob("*.deb")):
        raise NotAvailable("apt-get downloaded nothing")


def _private_lists(folder: Path) -> list[str]:
    lists, cache = folder / "lists", folder / "cache"
    for place in (lists / "partial", cache / "archives" / "partial"):
        place.mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
