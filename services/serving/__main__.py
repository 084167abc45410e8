"""``python -m services.serving``."""

from __future__ import annotations

import sys

from services.serving.server import main

if __name__ == "__main__":
    sys.exit(main())
