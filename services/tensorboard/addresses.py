"""Addresses of chosen jobs: ``/jobs/job_a,job_b/`` below the prefix is a TensorBoard of these jobs alone.

TensorBoard knows such a set as an experiment; but the pages that it ships ask for data relative to the address that
they were opened at, and where they name an experiment (``/experiment/defaultExperimentId/data/runs``) it is
always that.
"""

from __future__ import annotations

import re
from typing import Any

from tensorboard.backend.experiment_id import WSGI_ENVIRON_KEY


class ChosenJobs:
    """WSGI middleware around all of TensorBoard."""

    def __init__(self, application: Any, prefix: str) -> None:
        self._application = application
        self._prefix = prefix.rstrip("/")
        self._pattern = re.compile(
            re.escape(self._prefix) + r"(?:/jobs/([^/]+))?(?:/experiment/[^/]*)?(/.*)?", re.DOTALL
        )

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        found = self._pattern.fullmatch(environ.get("PATH_INFO", ""))
        if found is None:
            return self._application(environ, start_response)
        jobs, rest = found.groups()
        if not rest:
            last = environ["PATH_INFO"].rpartition("/")[2]
            query = environ.get("QUERY_STRING")
            # relative, so that it holds behind any other server
            start_response(
                "307 Temporary Redirect", [("Location", f"{last}/" + (f"?{query}" if query else ""))]
            )
            return [b""]
        return self._application(
            {**environ, WSGI_ENVIRON_KEY: jobs or "", "PATH_INFO": self._prefix + rest}, start_response
        )
