"""A new list of models while the server runs, as gRPC's HandleReloadConfigRequest brings it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from services.serving.config import ModelConfig
from services.serving.errors import Code, ServingError
from services.serving.labels import CheckLabels
from services.serving.manager import ModelManager
from services.serving.watcher import Catalog, Watcher

Reload = Callable[[Mapping[str, ModelConfig], float], None]

_PAUSE_SECONDS = 0.02


def reload_models(
    catalog: Catalog,
    watcher: Watcher,
    manager: ModelManager,
    models: Mapping[str, ModelConfig],
    timeout: float,
    *,
    check: CheckLabels = lambda _: None,
) -> None:
    """Serve ``models`` in place of those that were listed; return when each new one has an AVAILABLE version.

    TensorFlow Serving waits for ever, and holds off every later reload, when a new model has no version at
    all (its issues 1565 and 2189). Here that, and a first failed load, ends the call; the model
    stays listed and is served once it can be. ``timeout`` in seconds.

    Raises:
        ServingError: UNKNOWN with the models that are not available; what ``check`` raises, and then nothing of
            ``models`` is taken over.
    """
    check(models)
    before = catalog.models().keys()
    catalog.replace(models)
    watcher.poll()
    waiting = set(models) - before
    failed: dict[str, str] = {}
    deadline = time.monotonic() + timeout
    while waiting:
        settled = manager.settled()
        for name in sorted(waiting):
            if name not in settled:
                failed[name] = f"name: {name}}} has no version in {models[name].base_path}"
            elif manager.available(name):
                waiting.discard(name)
            elif settled[name]:
                failed[name] = _failure(name, manager)
            elif time.monotonic() > deadline:
                failed[name] = f"name: {name}}} is still loading"
        waiting -= failed.keys()
        if waiting:
            time.sleep(_PAUSE_SECONDS)
    if failed:
        listed = "".join(f"{{{{{why}}}, " for why in failed.values())
        raise ServingError(Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{listed}}}")


def _failure(name: str, manager: ModelManager) -> str:
    version, why = manager.last_error(name) or (0, "unknown")
    return f"name: {name} version: {version}}} due to error: {why}"
