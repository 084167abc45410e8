"""What a version goes through between being read from disk and being AVAILABLE."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from services.serving.signature import Servable
from services.serving.telemetry import Telemetry

Step = Callable[[Servable, str], None]


def prepared(
    load: Callable[[str], Servable],
    steps: Sequence[Step],
    telemetry: Telemetry,
    wrap: Callable[[Servable, str], Servable] = lambda servable, _: servable,
) -> Callable[[str], Servable]:
    """A loader that passes each loaded version, with its folder, through ``steps``, and counts the loads.

    A step that raises fails the load; the version is closed then. ``wrap`` is what requests then meet.
    """

    def run(path: str) -> Servable:
        began = time.monotonic()
        ok = False
        try:
            servable = load(path)
            try:
                for step in steps:
                    step(servable, path)
            except BaseException:
                servable.close()
                raise
            ok = True
        finally:
            telemetry.loaded(path, time.monotonic() - began, ok=ok)
        return wrap(servable, path)

    return run
