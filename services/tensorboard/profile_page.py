"""TensorBoard's profile page, loaded when it is first opened: its native library takes half a second and 60 MB.

The page's own program (xprof) is told to do without TensorFlow. Of its addresses those that would read any folder of
this machine, or connect to another one, are not offered.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import threading
from pathlib import Path, PurePosixPath
from typing import Any

from tensorboard import plugin_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from services.tensorboard import runs
from services.tensorboard.boards import Boards

_NOT_OFFERED = frozenset({"/capture_profile", "/local"})
_READS_ANYWHERE = frozenset({"session_path", "run_path"})


class ProfilePage(base_plugin.TBPlugin):  # type: ignore[misc]
    """Stands in for xprof's plugin under its name. Each request is handed on to the real one."""

    plugin_name = "profile"

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._context = context
        self._boards: Boards = context.data_provider
        self._lock = threading.Lock()
        self._apps: dict[str, Any] | None = None

    def is_active(self) -> bool:
        """Whether there is a profile to show."""
        if importlib.util.find_spec("xprof") is None:
            return False
        return any(runs.profiles(folder) for folder in runs.folders(self._boards.logdir))

    def frontend_metadata(self) -> Any:
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Profile")

    def get_plugin_apps(self) -> dict[str, Any]:
        return {"/*": self._serve}

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = wrappers.Request(environ)
        route = "/" + request.path.partition(f"/plugin/{self.plugin_name}/")[2]
        run = request.args.get("run", "")
        if (
            route in _NOT_OFFERED
            or _READS_ANYWHERE & set(request.args)
            or ".." in PurePosixPath(run).parts
            or run.startswith("/")
        ):
            return _answer({"error": "not offered here"}, 403)(environ, start_response)
        if route == "/runs":
            board = self._boards.board(plugin_util.experiment_id(environ))
            names = [
                str(_page_name(path, self._boards.logdir))
                for folder in board.folders()
                for path in runs.profiles(folder)
            ]
            return _answer(sorted(names, reverse=True), 200)(environ, start_response)
        app = self._real().get(route)
        if app is None:
            return _answer({"error": "not found"}, 404)(environ, start_response)
        return app(environ, start_response)

    def _real(self) -> dict[str, Any]:
        with self._lock:
            if self._apps is None:
                os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
                from xprof import profile_plugin

                profile_plugin.logger.setLevel(logging.WARNING)
                self._apps = dict(profile_plugin.ProfilePlugin(self._context).get_plugin_apps())
            return self._apps


def _page_name(profile: Path, logdir: Path) -> PurePosixPath:
    """How the page names a profile: the run's name, and its folder's."""
    run = profile.parents[2].relative_to(logdir)
    return PurePosixPath(run) / profile.name


def _answer(value: Any, status: int) -> wrappers.Response:
    headers = {"X-Content-Type-Options": "nosniff"}
    return wrappers.Response(json.dumps(value), status, headers, mimetype="application/json")
