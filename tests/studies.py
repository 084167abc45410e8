"""Studies made by hand in a store: no worker, no training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.jobs import JobState
from shared.specs import TuneJob, parse_job
from shared.store import NewTrial, Store
from shared.trials import Told, TrialSource, TrialStatus, Turn

BASE: dict[str, Any] = {
    "model": {"builder": "mlp"},
    "dataset": {"npz": "ds_digits"},
    "fit": {"epochs": 3},
}
SPEC: dict[str, Any] = {
    "kind": "tune",
    "base": BASE,
    "space": {
        "fit.learning_rate": {"loguniform": [1e-4, 1e-1]},
        "units": {"choice": ["64", "128,64"]},
        "dropout": {"uniform": [0.0, 0.5]},
    },
    "objective": {"metric": "val_accuracy"},
    "max_trials": 50,
}
# asks TensorBoard's HParams page for its table, whole
HPARAMS_TABLE: dict[str, Any] = {
    "experimentName": "",
    "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
    "colParams": [],
    "startIndex": 0,
    "sliceSize": 100,
}


@dataclass
class HandMade:
    """A running study. Its trials are begun and ended by calls."""

    store: Store
    id: str
    spec: TuneJob
    asked: int = 0

    def _turn(self) -> Turn:
        self.store.studies.wake(self.id)
        turn = self.store.studies.take_turn(self.id, 60)
        assert turn is not None
        return turn

    def ask(self, *wanted: Mapping[str, Any]) -> list[str]:
        """Begin trials with these parameters; ids of their jobs."""
        turn = self._turn()
        rows = [
            NewTrial(
                number=self.asked + i,
                source=TrialSource.SAMPLER,
                params=params,
                attrs={},
                spec=self.spec.assigned(params),
                run={},
                run_dir=f"unpublished/20260101-000000-{self.id}/trials/{self.asked + i:05d}",
            )
            for i, params in enumerate(wanted)
        ]
        ids = self.store.studies.record(turn, wanted=rows)
        assert len(ids) == len(rows)
        self.asked += len(rows)
        self.store.studies.end_turn(turn, wake_in=None)
        return ids

    def tell(self, ended: Iterable[Told], best: int | None = None) -> None:
        turn = self._turn()
        self.store.studies.record(turn, told=list(ended), best=best)
        self.store.studies.end_turn(turn, wake_in=None)

    def finish(self, state: JobState = JobState.SUCCEEDED) -> None:
        turn = self._turn()
        self.store.studies.finish(turn, state)
        self.store.studies.end_turn(turn, wake_in=None)


def hand_made(store: Store, **changes: Any) -> HandMade:
    """A study that runs."""
    spec = parse_job({**SPEC, **changes})
    assert isinstance(spec, TuneJob)
    job, _ = store.jobs.create(spec)
    study = HandMade(store, job.id, spec)
    turn = study._turn()
    store.studies.begin(turn, f"unpublished/20260101-000000-{job.id}")
    store.studies.end_turn(turn, wake_in=None)
    return study


def complete(number: int, *values: float) -> Told:
    return Told(number, TrialStatus.COMPLETE, list(values), [(1, 0.5), (2, values[0])])
