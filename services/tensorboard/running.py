"""Trials that have begun and not ended are shown as running.

TensorBoard takes such a session's status as unknown. It can't be written as running either, for of what a run says of
itself TensorBoard keeps the first only. A study's trials are known to be told of when they end, however they end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorboard.data import provider
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from services.tensorboard.runs import TRIAL

PLUGIN = metadata.PLUGIN_NAME
_RUNNING = plugin_data_pb2.HParamsPluginData(
    version=metadata.PLUGIN_DATA_VERSION,
    session_end_info=plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_RUNNING),
).SerializeToString()


def shown_as_running(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """``found``, what the HParams page asks for by run and tag, with an end for trials that have none."""
    return {
        run: {**tags, metadata.SESSION_END_INFO_TAG: _session_runs(tags[metadata.SESSION_START_INFO_TAG])}
        if f"/{TRIAL}" in run
        and metadata.SESSION_START_INFO_TAG in tags
        and metadata.SESSION_END_INFO_TAG not in tags
        else tags
        for run, tags in found.items()
    }


def _session_runs(begun: Any) -> Any:
    return provider.TensorTimeSeries(
        max_step=begun.max_step,
        max_wall_time=begun.max_wall_time,
        plugin_content=_RUNNING,
        description="",
        display_name="",
    )
