"""``python -m services.worker.training --events-fd N``: a fresh start, with the lifeline on stdin."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from services.worker.training.entry import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="services.worker.training")
    parser.add_argument("--events-fd", type=int, required=True)
    code = main(0, parser.parse_args().events_fd)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the log's disk is full
            stream.flush()
    os._exit(code)  # TensorFlow's own exit handlers can take seconds and have nothing left to do
