"""Fashion-MNIST out of Debian's package ``dataset-fashion-mnist``, as the bytes that were published.

Debian recompressed nothing: it wrote the gzip headers anew, without file name and time. Putting both back gives the
original files, and each one's SHA-256 is checked against the original's before it is used. No root is needed.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from pathlib import Path

from services.worker.training.data import apt

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")

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


def genuine_files(target: Path, installed: Path = INSTALLED) -> str:
    """Write the four published files into ``target``; returns where they came from, for people.

    Raises:
        apt.NotAvailable: no apt-get here, no package, or files that are not the published ones.
    """
    if all((installed / name).is_file() for name in FILES):
        _rebuild(installed, target)
        return f"Debian's installed package {PACKAGE}"
    with tempfile.TemporaryDirectory(prefix="modelyard-apt-") as folder:
        apt.unpack((PACKAGE,), Path(folder))
        _rebuild(Path(folder) / INSTALLED.relative_to("/"), target)
    return f"Debian's package {PACKAGE}"


def rebuilt(name: str, data: bytes) -> bytes:
    """Debian's gzip bytes with the published header: name flag, time, name.

    Raises:
        apt.NotAvailable: the result is not the published file.
    """
    time, expected = FILES[name]
    plain = name.removesuffix(".gz").encode()
    # ID1 ID2 CM FLG=FNAME | MTIME | XFL=0 OS=Unix | name, NUL | deflate stream and trailer as they are
    genuine = data[:3] + b"\x08" + struct.pack("<I", time) + b"\x00\x03" + plain + b"\x00" + data[10:]
    if data[:4] != b"\x1f\x8b\x08\x00" or hashlib.sha256(genuine).hexdigest() != expected:
        raise apt.NotAvailable(f"{name} in Debian's package is not the published file")
    return genuine


def _rebuild(source: Path, target: Path) -> None:
    for name in FILES:
        try:
            data = (source / name).read_bytes()
        except OSError as error:
            raise apt.NotAvailable(f"{name} is missing in the package") from error
        (target / name).write_bytes(rebuilt(name, data))
