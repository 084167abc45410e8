"""Which versions should be served: folders on disk, seen through each model's version policy.

Reads folders only when their modification time says so, because a poll happens several times a second and a
model may have ten thousand versions.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.serving.config import AllVersions, Latest, ModelConfig, Specific, VersionPolicy

log = logging.getLogger("serving.source")

# What absl::SimpleAtoi takes for a whole number.
_VERSION = re.compile(r"\s*([+-]?[0-9]+)\s*", re.ASCII)
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LARGEST = 2**63 - 1
_LONGEST = 255  # characters; no file system has longer names
# A folder changed twice within one tick of the file system's clock has one time for both, so a time this
# fresh proves nothing. Some file systems count in whole seconds (or two).
_RACY_SECONDS = 2.5
# Network file systems may show an old time for a while; look for real now and then.
_TRUST_SECONDS = 30.0


@dataclass
class _Listing:
    """Names in a folder, and when that was true."""

    names: list[str] = field(default_factory=list)
    changed_ns: int = -1
    read_at: float = 0.0
    settled: bool = False

    def is_current(self, changed_ns: int, now: float) -> bool:
        return self.settled and changed_ns == self.changed_ns and now - self.read_at < _TRUST_SECONDS


class FolderReader:
    """Lists folders, remembering each listing until the folder changes. For one thread.

    ``only_folders``: sub-folders and links to such, no files.
    """

    def __init__(self, *, only_folders: bool = False) -> None:
        self._listings: dict[str, _Listing] = {}
        self._only_folders = only_folders

    def names(self, path: str) -> list[str]:
        """The names in ``path``, in no order. Not to be changed.

        The list is the same object as last time if nothing changed.

        Raises:
            OSError: if ``path`` can't be read.
        """
        changed_ns = os.stat(path).st_mtime_ns
        now = time.monotonic()
        listing = self._listings.setdefault(path, _Listing())
        if listing.is_current(changed_ns, now):
            return listing.names
        settled = time.time() - changed_ns / 1e9 > _RACY_SECONDS
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if not self._only_folders or entry.is_dir()]
        if names != listing.names:
            listing.names = names
        listing.changed_ns, listing.read_at, listing.settled = changed_ns, now, settled
        return listing.names

    def forget(self, keep: set[str]) -> None:
        """Drop what was remembered of other folders than ``keep``."""
        for path in self._listings.keys() - keep:
            del self._listings[path]


def choose(versions: Mapping[int, str], policy: VersionPolicy) -> dict[int, str]:
    """The versions that ``policy`` wants among those that are there."""
    match policy:
        case AllVersions():
            return dict(versions)
        case Specific(wanted):
            return {version: versions[version] for version in sorted(wanted & versions.keys())}
        case Latest(count):
            return {version: versions[version] for version in sorted(versions)[-count:]}


def version_number(name: str) -> int | None:
    """The version that a name in a base path stands for; None if it is no whole number of 64 bits."""
    match = _VERSION.fullmatch(name)
    if match is None or len(match.group(1)) > _LONGEST:
        return None
    version = int(match.group(1))
    return version if -_LARGEST - 1 <= version <= _LARGEST else None


class VersionSource:
    """The wanted versions of the configured models. For one thread."""

    def __init__(self) -> None:
        self._folders = FolderReader()
        self._versions: dict[str, tuple[list[str], dict[int, str]]] = {}  # base path -> names, what they are
        self._complained: set[str] = set()

    def poll(self, models: Mapping[str, ModelConfig]) -> dict[str, dict[int, str]]:
        """Version -> folder for each model whose base path can be read.

        A model whose base path is missing is left out: keep what was wanted before. (In TensorFlow Serving one
        missing base path stops the updates of all models, issue 2189.)
        """
        wanted: dict[str, dict[int, str]] = {}
        for name, model in models.items():
            try:
                there = self._there(model.base_path)
            except OSError as error:
                if model.base_path not in self._complained:
                    self._complained.add(model.base_path)
                    log.warning("%s: can't read %s: %s", name, model.base_path, error.strerror)
                continue
            self._complained.discard(model.base_path)
            wanted[name] = choose(there, model.policy)
        return wanted

    def _there(self, base_path: str) -> dict[int, str]:
        names = self._folders.names(base_path)
        known = self._versions.get(base_path)
        if known is not None and known[0] is names:
            return known[1]
        # As in TensorFlow Serving a file counts too, and of "1" and "001" the later name wins.
        there: dict[int, str] = {}
        for name in sorted(names):
            version = version_number(name)
            if version is None:
                continue
            if version in there:
                log.warning("%s: %s stands for version %d, not %s", base_path, name, version, there[version])
            there[version] = os.path.join(base_path, name)
        self._versions[base_path] = (names, there)
        return there


class ModelsFolder:
    """Models found by themselves: each sub-folder of one folder is a model of that name. For one thread."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._folders = FolderReader(only_folders=True)
        self._complained = False
        self._models: dict[str, ModelConfig] = {}

    def models(self) -> dict[str, ModelConfig]:
        """The models there are now; those of the last look if the folder can't be read.

        Names begin with a letter or digit, so dot-folders are left alone; a name of digits alone would be a
        version.
        """
        try:
            names = self._folders.names(self._path)
        except OSError as error:
            if not self._complained:
                log.warning("can't read %s: %s", self._path, error.strerror)
            self._complained = True
            return self._models
        self._complained = False
        self._models = {
            name: self._models.get(name) or ModelConfig(name, os.path.join(self._path, name))
            for name in sorted(names)
            if _MODEL_NAME.fullmatch(name) and not name.isdigit()
        }
        return self._models
