"""Processes that race: real ones, each with connections of its own, without seconds of imports for each."""

from __future__ import annotations

import multiprocessing

# forked from a process that has imported this and nothing else: no connection, no thread
RACING = multiprocessing.get_context("forkserver")
RACING.set_forkserver_preload(["pytest", "shared.store", "shared.model_repo", "tests.builders"])
