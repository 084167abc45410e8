"""Where everything lies on disk: one folder, the home, shared by all processes.

<home>/modelyard.db                        the store, in one-machine mode
<home>/models/<model>/<version>/           published SavedModels, watched by the model server
<home>/models/<model>/.staging-<job>/      a publish under way; never an integer, so never served
<home>/runs/<model>/<time>-<job>/          one job's run: event files, checkpoints, job.log, export
<home>/datasets/<dataset>/                 uploads
<home>/tfds/                               tensorflow_datasets' own data_dir
<home>/cache/                              decoded data, safe to delete
<home>/logs/  <home>/broker/  <home>/up.lock   of the one-machine launcher
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one home folder. Making a ``Home`` touches nothing on disk; ``create`` does."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "modelyard.db"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def tfds(self) -> Path:
        return self.root / "tfds"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def broker(self) -> Path:
        return self.root / "broker"

    def create(self) -> Home:
        """Make the folders that every process expects. Safe to call by several processes at once."""
        for folder in (self.models, self.runs, self.datasets, self.tfds, self.cache, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        return self
