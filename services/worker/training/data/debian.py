"""Fashion-MNIST out of Debian's package ``dataset-fashion-mnist``, as the bytes that were published.

Debian recompressed nothing: it wrote the gzip headers anew, without file name and time. Putting both back gives the
original files, and each one's SHA-256 is checked against the original's before it is used. No root is needed.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
APT_SECONDS = 120

# name -> (time in the gzip header, SHA-256 of the published file, as tensorflow_datasets registers it)
FILES = {
    "train-images-idx3-ubyte.gz": (
        1504176606,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte.gz": (
        1504176606,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte.gz": (
        1504176627,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        1504176627,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}


class NotAvailable(Exception):
    """The package can't be had on this machine, with the reason."""


def genuine_files(target: Path, installed: Path = INSTALLED) -> str:
    """Write the four published files into ``target``; returns where they came from, for people.

    Raises:
        NotAvailable: no apt-get here, no package, or files that are not the published ones.
    """
    if all((installed / name).is_file() for name in FILES):
        _rebuild(installed, target)
        return f"Debian's installed package {PACKAGE}"
    with tempfile.TemporaryDirectory(prefix="modelyard-apt-") as folder:
        unpacked = _fetch(Path(folder))
        _rebuild(unpacked / INSTALLED.relative_to("/"), target)
    return f"Debian's package {PACKAGE}"


def rebuilt(name: str, data: bytes) -> bytes:
    """Debian's gzip bytes with the published header: name flag, time, name.

    Raises:
        NotAvailable: the result is not the published file.
    """
    time, expected = FILES[name]
    plain = name.removesuffix(".gz").encode()
    # ID1 ID2 CM FLG=FNAME | MTIME | XFL=0 OS=Unix | name, NUL | deflate stream and trailer as they are
    genuine = data[:3] + b"\x08" + struct.pack("<I", time) + b"\x00\x03" + plain + b"\x00" + data[10:]
    if data[:4] != b"\x1f\x8b\x08\x00" or hashlib.sha256(genuine).hexdigest() != expected:
        raise NotAvailable(f"{name} in Debian's package is not the published file")
    return genuine


def _rebuild(source: Path, target: Path) -> None:
    for name in FILES:
        try:
            data = (source / name).read_bytes()
        except OSError as error:
            raise NotAvailable(f"{name} is missing in the package") from error
        (target / name).write_bytes(rebuilt(name, data))


def _fetch(folder: Path) -> Path:
    """Download and unpack the package below ``folder``; nothing is installed."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise NotAvailable("this machine has no apt-get")
    try:
        _run(["apt-get", "download", PACKAGE], folder)
    except NotAvailable:
        # The package lists of a fresh machine are empty, and updating the system's needs root: use lists of our own.
        options = _private_lists(folder)
        _run(["apt-get", *options, "update"], folder)
        _run(["apt-get", *options, "download", PACKAGE], folder)
    packages = sorted(folder.glob("*.deb"))
    if not packages:
        raise NotAvailable("apt-get downloaded nothing")
    _run(["dpkg", "-x", str(packages[0]), str(folder / "unpacked")], folder)
    return folder / "unpacked"


def _private_lists(folder: Path) -> list[str]:
    lists, cache = folder / "lists", folder / "cache"
    for place in (lists / "partial", cache / "archives" / "partial"):
        place.mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=APT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(f"{' '.join(command[:2])}: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or [done.stderr[-200:]]
        raise NotAvailable(f"{command[0]} failed: {lines[-1].strip()}")
