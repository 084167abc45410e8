"""What a version goes through between being read from disk and being AVAILABLE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.serving.signature import Servable

Step = Callable[[Servable, str], None]


def prepared(load: Callable[[str], Servable], steps: Sequence[Step]) -> Callable[[str], Servable]:
    """A loader that passes each loaded version, with its folder, through ``steps``.

    A step that raises fails the load; the version is closed then.
    """

    def run(path: str) -> Servable:
        servable = load(path)
        try:
            for step in steps:
                step(servable, path)
        except BaseException:
            servable.close()
            raise
        return servable

    return run
