"""placeholder"""

from pathlib import Path


def run(*, home: Path | None, port: int, keep: bool, since: float | None) -> int:
    raise NotImplementedError
