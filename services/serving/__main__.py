"""``python -m services.serving``."""

from __future__ import annotations

import logging
import os
import sys

from services.serving.server import main

if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Requests have been drained. An orderly interpreter exit would wait for loads that still run (minutes, for
    # a large model) and then take TensorFlow's threads apart.
    os._exit(code)
