"""The thread that keeps the manager told: which models there are, and which of their versions are wanted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from services.serving.config import ModelConfig, parse_models_config
from services.serving.errors import ServingError
from services.serving.labels import CheckLabels
from services.serving.manager import ModelManager
from services.serving.source import ModelsFolder, VersionSource
from services.serving.textproto import ConfigError

log = logging.getLogger("serving.watcher")


class ConfigFile:
    """A ``models.config`` that is read again every ``poll_seconds`` (0 = never). For one thread.

    ``check`` raises a ServingError for models that must not be served. ``optional``: a file that is not there lists
    nothing.
    """

    def __init__(
        self,
        path: Path,
        poll_seconds: float,
        check: CheckLabels = lambda _: None,
        *,
        optional: bool = False,
    ) -> None:
        self._check = check
        self._path = path
        self._optional = optional
        self._poll_seconds = poll_seconds
        self._read_at: float | None = None
        self._complaint = ""
        self._models: dict[str, ModelConfig] = {}

    def read(self) -> dict[str, ModelConfig]:
        """The file's models, read now.

        Raises:
            ConfigError: if the file can't be read or used; the text names it.
        """
        self._read_at = time.monotonic()
        try:
            models = parse_models_config(self._path.read_text(), first=not self._models)
            if models != self._models:
                self._check(models)
            self._models = models
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            if self._optional and isinstance(error, FileNotFoundError):
                self._models = {}
                return self._models
            raise ConfigError(f"{self._path}: {error}") from None
        except ServingError as error:
            raise ConfigError(f"{self._path}: {error.message}") from None
        return self._models

    def replace(self, models: Mapping[str, ModelConfig]) -> None:
        """Take these for the file's models until it is read again."""
        self._read_at = self._read_at or time.monotonic()
        self._models = dict(models)

    def models(self) -> dict[str, ModelConfig]:
        """The file's models; a file that has become unusable is logged and changes nothing."""
        now = time.monotonic()
        due = self._read_at is None or (self._poll_seconds > 0 and now - self._read_at >= self._poll_seconds)
        if due:
            try:
                self.read()
                self._complaint = ""
            except ConfigError as error:
                if str(error) != self._complaint:
                    log.error("%s (the models stay as they were)", error)
                self._complaint = str(error)
        return self._models


class Catalog:
    """The configured models: those given, those of the file, and those found in the folder; the first wins.

    Safe to use from many threads.
    """

    def __init__(
        self, given: Mapping[str, ModelConfig], file: ConfigFile | None, folder: ModelsFolder | None
    ) -> None:
        self._given = given
        self._file = file
        self._folder = folder
        self._lock = threading.Lock()

    def models(self) -> dict[str, ModelConfig]:
        with self._lock:
            found = self._folder.models() if self._folder else {}
            listed = self._file.models() if self._file else {}
            return {**found, **listed, **self._given}

    def replace(self, models: Mapping[str, ModelConfig]) -> None:
        """Serve ``models`` in place of those given and those of the file, which wins again when it is polled."""
        with self._lock:
            self._given = {}
            if self._file is None:
                self._given = dict(models)
            else:
                self._file.replace(models)


class Watcher:
    """Polls in a thread of its own and passes changes on.

    ``poll_seconds`` 0 looks once, negative never, as TensorFlow Serving's flag.
    """

    def __init__(self, catalog: Catalog, manager: ModelManager, poll_seconds: float) -> None:
        self._catalog = catalog
        self._manager = manager
        self._poll_seconds = poll_seconds
        self._source = VersionSource()
        self._told: dict[str, tuple[dict[int, str], dict[str, int]]] = {}
        self._polling = threading.Lock()
        self._stop = threading.Event()
        self._looked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    @property
    def has_looked(self) -> bool:
        """Whether the first poll is over."""
        return self._looked.is_set()

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def stop(self) -> None:
        """Stop polling; returns when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        if self._poll_seconds < 0:
            self._looked.set()
            return
        while not self._stop.is_set():
            try:
                self.poll()
            except Exception:
                # Disks fail in more ways than can be listed; what is loaded goes on serving.
                log.exception("polling failed")
            self._looked.set()
            if self._poll_seconds == 0 or self._stop.wait(self._poll_seconds):
                return

    def poll(self) -> None:
        """Look once, and tell the manager what has changed since the last look. Any thread may."""
        with self._polling:
            self._poll()

    def _poll(self) -> None:
        models = self._catalog.models()
        for name, versions in self._source.poll(models).items():
            news = (versions, dict(models[name].labels))
            if self._told.get(name) != news:
                self._told[name] = news
                self._manager.want(name, *news)
        for name in self._told.keys() - models.keys():
            del self._told[name]
            self._manager.forget(name)
