"""What TensorBoard shows, read when it is looked at: a job's runs, several jobs' to compare, or the newest.

TensorBoard itself reads all that lies below its log folder, over and over. Here each set of jobs is an *experiment* of
TensorBoard's, named in the address (see ``addresses``), and only what is being looked at is in memory. So
neither memory nor the time of an answer grows with the number of jobs ever run.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from tensorboard import errors
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.data import provider

from services.tensorboard import running, runs

NEWEST = 10  # jobs shown when none are named: TensorBoard selects no runs at all when there are more than 40
MAX_JOBS = 40
MAX_TRIALS = 1000  # of one study, the newest
MAX_BOARDS = 6
INACTIVE_SECONDS = 86_400.0  # files older than that are read once


class Board:
    """One set of jobs. Thread-safe."""

    def __init__(
        self, logdir: Path, jobs: list[str] | None, guidance: dict[str, int], reload_seconds: float
    ) -> None:
        self._logdir, self._jobs = logdir, jobs
        self._guidance = guidance
        self._reload_seconds = reload_seconds
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._seen: dict[Path, dict[str, int]] = {}
        self._multiplexer = plugin_event_multiplexer.EventMultiplexer(
            size_guidance={"tensors": 10},
            tensor_size_guidance=self._guidance,
            event_file_active_filter=lambda changed: changed + INACTIVE_SECONDS >= time.time(),
        )
        self.data = data_provider.MultiplexerDataProvider(self._multiplexer, str(self._logdir))

    def folders(self) -> list[Path]:
        """The jobs' folders."""
        if self._jobs is None:
            return runs.newest(self._logdir, NEWEST)
        return runs.of_jobs(self._logdir, self._jobs, MAX_TRIALS)

    def refresh(self) -> None:
        """Read what has been written since, unless that was done a moment ago or another thread is at it."""
        if not self._lock.acquire(blocking=self._read_at is None):
            return
        try:
            if self._read_at is not None and time.monotonic() - self._read_at < self._reload_seconds:
                return
            found: dict[Path, dict[str, int]] = {}
            for folder in self.folders():
                found |= runs.event_files(folder, of_studies=self._jobs is not None)
            if self._was_cut_back(found):
                self._begin()
            for path in found:
                if path not in self._seen:
                    self._multiplexer.AddRun(str(path), str(path.relative_to(self._logdir)))
            self._multiplexer.Reload()
            self._seen = found
            self._read_at = time.monotonic()
        finally:
            self._lock.release()

    def _was_cut_back(self, found: dict[Path, dict[str, int]]) -> bool:
        """A resumed job takes its files back to the checkpoint; what was read of their ends is no longer true."""
        return any(
            found.get(path, {}).get(name, -1) < size
            for path, sizes in self._seen.items()
            for name, size in sizes.items()
        )


class Boards(provider.DataProvider):  # type: ignore[misc]
    """TensorBoard's source of data: each request is answered from the board of its experiment."""

    def __init__(self, logdir: Path, guidance: dict[str, int], reload_seconds: float) -> None:
        self.logdir = logdir
        self._guidance = guidance
        self._reload_seconds = reload_seconds
        self._boards: OrderedDict[str, Board] = OrderedDict()
        self._lock = threading.Lock()

    def board(self, experiment: str) -> Board:
        """The board of the jobs that ``experiment`` names, or of the newest if it is empty.

        Raises:
            tensorboard.errors.NotFoundError: it names no jobs.
        """
        with self._lock:
            known = self._boards.get(experiment)
            if known is None:
                jobs = runs.jobs_in(experiment) if experiment else None
                if experiment and (jobs is None or len(jobs) > MAX_JOBS):
                    raise errors.NotFoundError(
                        f"an address names up to {MAX_JOBS} jobs, as /jobs/job_a,job_b/"
                    )
                known = self._boards[experiment] = Board(
                    self.logdir, jobs, self._guidance, self._reload_seconds
                )
                while len(self._boards) > MAX_BOARDS:
                    self._boards.popitem(last=False)
            self._boards.move_to_end(experiment)
        return known

    def _data(self, experiment: str) -> Any:
        board = self.board(experiment)
        board.refresh()
        return board.data

    def experiment_metadata(self, ctx: Any = None, *, experiment_id: str) -> Any:
        return self._data(experiment_id).experiment_metadata(ctx, experiment_id=experiment_id)

    def list_plugins(self, ctx: Any = None, *, experiment_id: str) -> Any:
        return self._data(experiment_id).list_plugins(ctx, experiment_id=experiment_id)

    def list_runs(self, ctx: Any = None, *, experiment_id: str) -> Any:
        return self._data(experiment_id).list_runs(ctx, experiment_id=experiment_id)

    def list_scalars(self, ctx: Any = None, *, experiment_id: str, **which: Any) -> Any:
        return self._data(experiment_id).list_scalars(ctx, experiment_id=experiment_id, **which)

    def read_scalars(self, ctx: Any = None, *, experiment_id: str, **which: Any) -> Any:
        return self._data(experiment_id).read_scalars(ctx, experiment_id=experiment_id, **which)

    def read_last_scalars(self, ctx: Any = None, *, experiment_id: str, **which: Any) -> Any:
        return self._data(experiment_id).read_last_scalars(ctx, experiment_id=experiment_id, **which)

    def list_tensors(
        self, ctx: Any = None, *, experiment_id: str, plugin_name: str, run_tag_filter: Any = None
    ) -> Any:
        found = self._data(experiment_id).list_tensors(
            ctx, experiment_id=experiment_id, plugin_name=plugin_name, run_tag_filter=run_tag_filter
        )
        return running.shown_as_running(found) if plugin_name == running.PLUGIN else found

    def read_tensors(self, ctx: Any = None, *, experiment_id: str, **which: Any) -> Any:
        return self._data(experiment_id).read_tensors(ctx, experiment_id=experiment_id, **which)

    def list_blob_sequences(self, ctx: Any = None, *, experiment_id: str, **which: Any) -> Any:
        return self._data(experiment_id).list_blob_sequences(ctx, experiment_id=experiment_id, **which)

    def read_blob_sequences(self, ctx: Any = None, *, experiment_id: str, **which: Any) -> Any:
        return self._data(experiment_id).read_blob_sequences(ctx, experiment_id=experiment_id, **which)

    def read_blob(self, ctx: Any = None, *, blob_key: str) -> Any:
        try:
            experiment = data_provider._decode_blob_key(blob_key)[0]
        except ValueError as error:
            raise errors.InvalidArgumentError("this is no key of a blob") from error
        return self._data(experiment).read_blob(ctx, blob_key=blob_key)

    def list_hyperparameters(
        self, ctx: Any = None, *, experiment_ids: list[str], limit: int | None = None
    ) -> Any:
        return self._data(experiment_ids[0]).list_hyperparameters(
            ctx, experiment_ids=experiment_ids, limit=limit
        )

    def read_hyperparameters(self, ctx: Any = None, *, experiment_ids: list[str], **which: Any) -> Any:
        return self._data(experiment_ids[0]).read_hyperparameters(ctx, experiment_ids=experiment_ids, **which)
