"""``python -m shared.data_files FILE``: ``{"kind", "info"}`` as JSON, or ``{"error"}`` with exit code 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from shared.data_files import inspect
from shared.errors import ModelyardError


def main(arguments: list[str]) -> int:
    """Print what is in the file named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m shared.data_files FILE\n")
        return 2
    try:
        kind, info = inspect(Path(arguments[0]))
    except ModelyardError as error:
        sys.stdout.write(json.dumps({"error": error.as_dict()}))
        return 1
    sys.stdout.write(json.dumps({"kind": kind, "info": info}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
