"""Starts TensorBoard with its own small file reader in place of TensorFlow.

TensorBoard imports TensorFlow when it finds it: 3 to 4 s and 570 MB. A module named ``tensorboard.compat.notf`` makes
it use the stub that it carries for installations without TensorFlow: under 2 s and under 100 MB, with the same
dashboards. Rotated or remote (gs://, s3://) folders that only TensorFlow can read are not needed here. What is read,
and when, is in ``boards``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

RELOAD_SECONDS = 1.0  # a running job shows within this and one browser refresh


def parser() -> argparse.ArgumentParser:
    """The options, named as TensorBoard names them."""
    options = argparse.ArgumentParser(prog="python -m services.tensorboard", description=__doc__)
    options.add_argument("--logdir", required=True, help="folder of runs: <model>/<time>-<job>")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=6006)
    options.add_argument("--path_prefix", default="/tensorboard", help="served below this path")
    options.add_argument(
        "--reload_interval", type=float, default=RELOAD_SECONDS, help="seconds between two looks at files"
    )
    return options


def serve(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    options = parser().parse_args(argv)
    sys.modules["tensorboard.compat.notf"] = ModuleType("tensorboard.compat.notf")
    # the profile page asks for it on its own
    sys.modules["tensorflow"] = None  # type: ignore[assignment]

    from tensorboard import default, program
    from tensorboard.backend.event_processing.data_ingester import DEFAULT_TENSOR_SIZE_GUIDANCE
    from tensorboard.util import tb_logging

    from services.tensorboard.addresses import ChosenJobs
    from services.tensorboard.boards import Boards
    from services.tensorboard.profile_page import ProfilePage

    class Board(program.TensorBoard):  # type: ignore[misc]
        """TensorBoard's program with our data."""

        def _make_data_ingester(self) -> Any:
            guidance = {**DEFAULT_TENSOR_SIZE_GUIDANCE, **self.flags.samples_per_plugin}
            # TensorBoard writes the folder's name into its pages only
            return SimpleNamespace(
                data_provider=Boards(Path(options.logdir).absolute(), guidance, options.reload_interval)
            )

    tb_logging.get_logger().setLevel(logging.WARNING)
    plugins = [
        # TensorBoard's own stand-in only tells how to install the profile page
        *(plugin for plugin in default.get_static_plugins() if "profile_redirect" not in plugin.__module__),
        *(entry.load() for entry in metadata.entry_points(group="tensorboard_plugins") if _is_light(entry)),
        ProfilePage,
    ]
    board = Board(
        plugins=plugins,
        server_class=lambda app, flags: program.create_port_scanning_werkzeug_server(
            ChosenJobs(app, flags.path_prefix), flags
        ),
    )
    board.configure(
        (
            "tensorboard",
            f"--logdir={options.logdir}",
            f"--host={options.host}",
            f"--port={options.port}",
            f"--path_prefix={options.path_prefix}",
            # the fast loader is a second process that outlives a SIGKILL of this one
            "--load_fast=false",
        ),
    )
    board.flags.master_tpu_unsecure_channel = ""  # an option that the profile page reads
    with contextlib.suppress(KeyboardInterrupt):
        return int(board.main() or 0)
    return 0


def _is_light(plugin: metadata.EntryPoint) -> bool:
    return not plugin.value.startswith(("tensorboard_plugin_profile", "xprof"))
