"""Keeps ``models.config``, which tells a model server what to load, in step with the store.

A server's own policy knows the newest versions only. A label may point at an older one, so each model that has labels
is listed with the very versions wanted. The file is made whole from the store each time, under a lock on the models
volume, and replaced by a rename: several processes may do this at once, and the last one to look at the store writes.
(tensorflow/serving: config/model_server_config.proto; a reload replaces everything.)
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import Unavailable
from shared.settings import Settings
from shared.store import Store, Wanted

FILE = "models.config"
# Changes are looked at again until what was released is gone.
SETTLE_SECONDS = 30.0
log = logging.getLogger(__name__)


class ServingConfig:
    """Thread-safe.

    Args:
        store: the truth.
        models: the models volume as this process sees it; the file lies in it.
        seen_as: the same volume as the model server sees it.
        all_models: list every model, for a server that finds none by itself, such as TensorFlow Serving.
    """

    def __init__(self, store: Store, models: Path, *, seen_as: Path | None = None, all_models: bool) -> None:
        self._store = store
        self._folder = models
        self._seen_as = seen_as or models
        self._all = all_models

    @classmethod
    def of(cls, settings: Settings, store: Store) -> ServingConfig:
        """As the settings say."""
        return cls(
            store,
            settings.paths.models,
            seen_as=settings.serving_models_dir,
            all_models=not settings.serving_finds_models,
        )

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / FILE

    def write(self) -> bool:
        """Bring the file up to date; returns whether it had to change.

        Raises:
            Unavailable: the store does not answer; the file is as it was.
            OSError: the volume can't be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            text = self._text()
            try:
                if self.path.read_text() == text:
                    return False
            except FileNotFoundError:
                if not self._all and text == _HEAD + _TAIL:
                    return False
            temporary = self.path.with_name(f".{FILE}.new")
            with temporary.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        return True

    def _text(self) -> str:
        listed = (item for item in self._store.labels.wanted() if self._all or not item.only_newest)
        return _HEAD + "".join(self._entry(item) for item in listed) + _TAIL

    def _entry(self, wanted: Wanted) -> str:
        policy = (
            "latest { num_versions: 1 }"
            if wanted.only_newest
            else "specific { " + " ".join(f"versions: {number}" for number in sorted(wanted.versions)) + " }"
        )
        labels = "".join(
            f'    version_labels {{ key: "{label}" value: {number} }}\n'
            for label, number in sorted(wanted.labels.items())
        )
        return (
            "  config {\n"
            f'    name: "{wanted.model}"\n'
            f'    base_path: "{self._seen_as / wanted.model}"\n'
            '    model_platform: "tensorflow"\n'
            f"    model_version_policy {{ {policy} }}\n"
            f"{labels}"
            "  }\n"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / f".{FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


_HEAD = "# Written by Modelyard; changes made by hand are lost.\nmodel_config_list {\n"
_TAIL = "}\n"


class Settler:
    """A thread that writes the file once at its start, and again for a while after each change.

    What a change released stays loaded for some seconds; this is what lets it go then. It also makes good for a
    process that died between a change and its writing.
    """

    def __init__(self, config: ServingConfig, store: Store, *, every_seconds: float) -> None:
        self._config = config
        self._store = store
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serving-config", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits for what is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        due, complained = True, False
        while True:
            try:
                if due or self._store.labels.settling(SETTLE_SECONDS):
                    self._config.write()
                due = complained = False
            except (Unavailable, OSError) as error:
                due = True
                if not complained:
                    log.warning("%s could not be written: %s", self._config.path, error)
                complained = True
            except Exception:
                due = True
                log.exception("writing %s failed", self._config.path)
            if self._stop.wait(self._every):
                return


def main() -> int:
    """``python -m shared.serving_config``: write the file, for a model server that must find it when it starts."""
    settings = Settings()
    store = Store(settings.store_url)
    try:
        ServingConfig.of(settings, store).write()
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
