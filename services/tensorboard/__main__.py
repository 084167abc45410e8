"""``python -m services.tensorboard --logdir <home>/runs --port 6006``."""

from __future__ import annotations

import sys

from services.tensorboard.server import serve

if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
