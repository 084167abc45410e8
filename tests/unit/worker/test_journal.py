from __future__ import annotations

import math

import pytest

from services.worker.journal import Journal, lower_is_better
from services.worker.protocol import EpochEnded, MetricsLogged, Noted, Progress, StageEntered, Warned
from shared.errors import StaleClaim, Unavailable
from shared.store import Report


class Written(list[Report]):
    """Collects reports; ``down`` makes it fail like a store that does not answer."""

    down = False

    def __call__(self, report: Report) -> None:
        if self.down:
            raise Unavailable("down")
        self.append(report)


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def journal(written: Written) -> Journal:
    return Journal(written, metrics={}, run={})


def progress(step: int) -> Progress:
    return Progress(epoch=2, epochs=4, step=step, steps=10, metrics={"loss": 0.5})


def test_a_stage_is_written_at_once_and_progress_is_batched(journal: Journal, written: Written) -> None:
    journal.add(StageEntered(stage="training"))
    journal.flush()
    for step in range(10):
        journal.add(progress(step))
        journal.flush()
    assert len(written) == 1
    journal.flush(force=True)
    assert len(written) == 2
    assert written[1].progress is not None
    assert written[1].progress["step"] == 9
    assert written[1].progress["fraction"] == pytest.approx(0.475)


def test_nothing_new_writes_nothing(journal: Journal, written: Written) -> None:
    journal.flush(force=True)
    assert written == []


def test_best_values_follow_the_direction_of_the_metric(journal: Journal, written: Written) -> None:
    for epoch, (loss, accuracy) in enumerate([(0.5, 0.8), (0.4, 0.7), (0.6, 0.9)], 1):
        metrics = {"val_loss": loss, "val_accuracy": accuracy}
        journal.add(EpochEnded(epoch=epoch, step=epoch * 10, metrics=metrics, seconds=1))
    journal.flush()
    assert written[0].metrics is not None
    assert written[0].metrics["latest"] == {"val_loss": 0.6, "val_accuracy": 0.9}
    assert written[0].metrics["best"] == {
        "val_loss": {"value": 0.4, "epoch": 2},
        "val_accuracy": {"value": 0.9, "epoch": 3},
    }
    assert len(written[0].points) == 6


def test_a_value_that_is_not_finite_is_never_best(journal: Journal, written: Written) -> None:
    journal.add(EpochEnded(epoch=1, step=1, metrics={"loss": math.nan}, seconds=1))
    journal.add(EpochEnded(epoch=2, step=2, metrics={"loss": 2.0}, seconds=1))
    journal.flush()
    assert written[0].metrics is not None
    assert written[0].metrics["best"]["loss"]["epoch"] == 2
    assert written[0].points[0].value is None


def test_facts_merge_one_level_deep(journal: Journal, written: Written) -> None:
    journal.add(Noted(data={"timings": {"import": 1.0}, "rows": 5}))
    journal.add(Noted(data={"timings": {"build": 2.0}}))
    journal.flush(force=True)
    assert written[0].run == {"timings": {"import": 1.0, "build": 2.0}, "rows": 5}


def test_an_outage_of_the_store_loses_nothing_but_old_progress(journal: Journal, written: Written) -> None:
    written.down = True
    journal.add(EpochEnded(epoch=1, step=10, metrics={"loss": 1.0}, seconds=1))
    journal.flush()
    journal.add(Warned(code="slow", message="slow disk"))
    journal.add(MetricsLogged(epoch=1, step=11, values={"loss": 0.9}))
    journal.flush(force=True)
    written.down = False
    journal.flush(force=True)
    assert [kind for kind, _ in written[0].events] == ["epoch", "warning"]
    assert len(written[0].points) == 2


def test_a_lost_claim_is_told() -> None:
    def refuse(_: Report) -> None:
        raise StaleClaim("lost")

    journal = Journal(refuse, metrics={}, run={})
    journal.add(StageEntered(stage="training"))
    with pytest.raises(StaleClaim):
        journal.flush()


def test_losses_and_errors_should_go_down() -> None:
    assert lower_is_better("val_loss")
    assert lower_is_better("mean_absolute_error")
    assert not lower_is_better("val_accuracy")
    assert not lower_is_better("auc")
