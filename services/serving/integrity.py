"""Is a version's folder whole? A look at names and sizes only; nothing is parsed.

TensorFlow Serving has no such check: with ``variables/`` half copied its loader reports success and every
predict fails afterwards (tensorflow/serving issue 1086).
"""

from __future__ import annotations

import os
import re

_GRAPHS = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
_SHARD = re.compile(r"variables\.data-(\d+)-of-(\d+)")

Fingerprint = tuple[tuple[str, int, int], ...]


def missing_part(path: str) -> str | None:
    """What is missing from the version at ``path``, as a sentence; None if it looks whole.

    An absent or empty ``variables/`` is fine here (models without variables have one); whether the graph
    needs it is for the loader to say.
    """
    names = {name for name, _, _ in fingerprint(path)}
    if not names.intersection(_GRAPHS):
        return f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
    variables = {name.removeprefix("variables/") for name in names if name.startswith("variables/")}
    if not variables:
        return None
    if "variables.index" not in variables:
        return f"Incomplete version: {path}/variables/variables.index is missing"
    shards = [match for name in variables if (match := _SHARD.fullmatch(name))]
    if not shards:
        return f"Incomplete version: {path}/variables has no data files"
    total = int(shards[0].group(2))
    absent = set(range(total)) - {int(match.group(1)) for match in shards}
    if absent:
        return f"Incomplete version: {path}/variables lacks data shard {min(absent)} of {total}"
    return None


def fingerprint(path: str) -> Fingerprint:
    """Name, size and modification time of each file that a load reads; empty if the folder is gone.

    When a failed version's fingerprint changes, somebody is still writing it, and another try is worth it.
    """
    found: list[tuple[str, int, int]] = []
    for folder, prefix in ((path, ""), (os.path.join(path, "variables"), "variables/")):
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_file():
                        stat = entry.stat()
                        found.append((prefix + entry.name, stat.st_size, stat.st_mtime_ns))
        except OSError:
            continue
    return tuple(sorted(found))
