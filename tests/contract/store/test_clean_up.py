"""What the rules of a clean-up let go, and what stays whatever they say; on both databases, with real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import update

from shared.checkpoint_files import listing, write_notes
from shared.errors import Conflict, NotFound
from shared.home import Home
from shared.jobs import JobState
from shared.retention import CleanUp
from shared.retention.clean_up import DAY
from shared.serving_config import ServingConfig
from shared.specs import parse_job
from shared.specs.retention import RetentionPolicy
from shared.specs.traffic import LabelRoute
from shared.store import Store
from shared.store.schema import jobs
from tests.contract.store.publishing import publish

SPEC: dict[str, Any] = {"model": {"builder": "lenet5"}, "dataset": {"tfds": "mnist"}}
OLD = 40 * DAY


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


@pytest.fixture
def clean_up(store: Store, home: Home) -> CleanUp:
    return CleanUp(store, home, ServingConfig(store, home.models, all_models=True))


def ended(store: Store, home: Home, *, age: float = OLD, **more: Any) -> str:
    """A finished job with a run folder of three checkpoints and two event files."""
    job = store.jobs.create(parse_job({**SPEC, **more}))[0]
    taken = store.claims.claim(job.id, "w", 30)
    assert taken is not None
    store.claims.finish(taken[0], JobState.SUCCEEDED)
    fill(store, home, job.id, age)
    return job.id


def fill(store: Store, home: Home, job_id: str, age: float = OLD) -> Path:
    run_dir = f"m/{job_id}"
    with store._db.write() as tx:  # no public way to make a job old
        row = tx.execute(jobs.select().where(jobs.c.id == job_id)).one()
        finished = None if row.finished_at is None else row.finished_at - age
        tx.execute(update(jobs).where(jobs.c.id == job_id).values(run_dir=run_dir, finished_at=finished))
    folder = home.runs / run_dir
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "train").mkdir()
    for epoch in (1, 2, 3):
        arrays = folder / "checkpoints" / f"{epoch:06d}-00000000.npz"
        arrays.write_bytes(b"x" * 100)
        body = {
            "position": {"epoch": epoch, "step": 0, "total": epoch},
            "sha256": "0" * 64,
            "metrics": {},
            "complete": epoch == 3,
            "written_at": 0.0,
            "best": {"file": "000001-00000000.npz"},
        }
        write_notes(arrays.with_suffix(".json"), body)
    for name in ("train/events.out.tfevents.1", "events.out.tfevents.2"):
        (folder / name).write_bytes(b"e" * 10)
    (folder / "job.log").write_bytes(b"log")
    return folder


def policy(**parts: Any) -> RetentionPolicy:
    return RetentionPolicy.model_validate(parts)


def epochs(folder: Path) -> list[int | None]:
    return [one.epoch for one in listing(folder, verify=False)]


def test_checkpoints_but_the_newest_and_the_best(store: Store, home: Home, clean_up: CleanUp) -> None:
    folder = home.runs / "m" / ended(store, home)
    rules = policy(checkpoints={"older_than_days": 30, "keep": 1})
    told = clean_up.run(rules, dry=True)
    assert epochs(folder) == [3, 2, 1]
    done = clean_up.run(rules, dry=False)
    assert done == told
    assert done.counts == {"checkpoint": 1}
    assert done.things[0].name.endswith("/checkpoints/000002-00000000.npz")
    assert done.size_bytes > 100
    assert epochs(folder) == [3, 1]
    assert sorted(path.suffix for path in (folder / "checkpoints").iterdir()) == [
        ".json",
        ".json",
        ".npz",
        ".npz",
    ]
    assert clean_up.run(rules, dry=False).counts == {}


def test_a_checkpoint_that_is_not_whole_is_not_the_one_to_stay(
    store: Store, home: Home, clean_up: CleanUp
) -> None:
    folder = home.runs / "m" / ended(store, home) / "checkpoints"
    (folder / "000003-00000000.npz").unlink()
    (folder / "000001-00000000.json").unlink()
    clean_up.run(policy(checkpoints={"older_than_days": 30, "keep": 1}), dry=False)
    assert (folder / "000002-00000000.npz").exists()


def test_event_files_of_old_jobs_only(store: Store, home: Home, clean_up: CleanUp) -> None:
    old, young = ended(store, home), ended(store, home, age=DAY)
    done = clean_up.run(policy(event_files={"older_than_days": 30}), dry=False)
    assert (done.counts, done.size_bytes) == ({"event_file": 2}, 20)
    assert not list((home.runs / "m" / old).rglob("*tfevents*"))
    assert len(list((home.runs / "m" / young).rglob("*tfevents*"))) == 2
    assert (home.runs / "m" / old / "job.log").exists()


def test_what_a_job_goes_on_from_stays(store: Store, home: Home, clean_up: CleanUp) -> None:
    source, begun_with, other = (ended(store, home) for _ in range(3))
    store.jobs.create(parse_job(SPEC), resume_from=f"m/{source}")
    store.jobs.create(parse_job({**SPEC, "model": {"from_job": {"job": begun_with}}}))
    rules = policy(checkpoints={"older_than_days": 0, "keep": 0}, jobs={"older_than_days": 0})
    done = clean_up.run(rules, dry=False)
    assert [one.name for one in done.things] == [other]
    assert epochs(home.runs / "m" / source) == epochs(home.runs / "m" / begun_with) == [3, 2, 1]


def test_a_running_job_is_not_touched(store: Store, home: Home, clean_up: CleanUp) -> None:
    job = store.jobs.create(parse_job(SPEC))[0]
    assert store.claims.claim(job.id, "w", 30) is not None
    folder = fill(store, home, job.id)
    rules = policy(
        checkpoints={"older_than_days": 0, "keep": 0},
        event_files={"older_than_days": 0},
        jobs={"older_than_days": 0},
    )
    assert clean_up.run(rules, dry=False).counts == {}
    assert epochs(folder) == [3, 2, 1]


def test_jobs_go_with_their_rows_and_folders(store: Store, home: Home, clean_up: CleanUp) -> None:
    old, young = ended(store, home), ended(store, home, age=DAY)
    rules = policy(jobs={"older_than_days": 30})
    told = clean_up.run(rules, dry=True)
    done = clean_up.run(rules, dry=False)
    assert [one.name for one in told.things] == [one.name for one in done.things] == [old]
    assert told.size_bytes == done.size_bytes > 300
    with pytest.raises(NotFound):
        store.jobs.get(old)
    assert not (home.runs / "m" / old).exists()
    assert store.jobs.get(young).state is JobState.SUCCEEDED


def test_versions_beyond_the_newest_but_those_in_use(store: Store, home: Home, clean_up: CleanUp) -> None:
    for number in range(1, 7):
        publish(store, "m")
        (home.models / "m" / str(number)).mkdir(parents=True)
    store.labels.put("m", "stable", LabelRoute(version=2))
    store.jobs.create(parse_job({**SPEC, "model": {"from_version": {"model": "m", "version": 3}}}))
    rules = policy(versions={"keep": 2})
    told = clean_up.run(rules, dry=True)
    assert [one.name for one in told.things] == ["m/4", "m/1"]
    assert len(list((home.models / "m").iterdir())) == 6
    done = clean_up.run(rules, dry=False)
    assert done.counts == {"version": 2}
    assert sorted(path.name for path in (home.models / "m").iterdir()) == ["2", "3", "5", "6"]
    assert [one.version for one in store.models.versions("m").items] == [6, 5, 3, 2]
    assert clean_up.run(policy(versions={"keep": 1, "older_than_days": 1}), dry=False).counts == {}


def test_the_job_of_a_version_stays(store: Store, home: Home, clean_up: CleanUp) -> None:
    job_id = store.models.version("m", publish(store, "m")).job_id
    assert job_id is not None
    with store._db.write() as tx:
        tx.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(finished_at=jobs.c.created_at - OLD, state="succeeded")
        )
    assert clean_up.run(policy(jobs={"older_than_days": 1}), dry=False).counts == {}
    assert store.jobs.get(job_id).id == job_id


def study_of(store: Store, home: Home, trials: int) -> tuple[str, list[str]]:
    """An ended study with so many trials, each with files."""
    ids = [ended(store, home) for _ in range(trials + 1)]
    with store._db.write() as tx:  # a real one takes an optimiser
        tx.execute(update(jobs).where(jobs.c.id.in_(ids[1:])).values(parent_id=ids[0]))
    return ids[0], ids[1:]


def test_what_is_told_is_what_is_done_whatever_one_rule_does_to_another(
    store: Store, home: Home, clean_up: CleanUp
) -> None:
    study_of(store, home, 2)
    for _ in range(3):
        publish(store, "m")
    with store._db.write() as tx:
        query = jobs.select().where(jobs.c.model == "m", jobs.c.run_dir.is_(None))
        makers = [row.id for row in tx.execute(query)]
        tx.execute(
            update(jobs)
            .where(jobs.c.id.in_(makers))
            .values(finished_at=jobs.c.created_at - OLD, state="succeeded")
        )
    rules = policy(
        versions={"keep": 1},
        jobs={"older_than_days": 30},
        checkpoints={"older_than_days": 0, "keep": 0},
        event_files={"older_than_days": 0},
    )
    ended(store, home, age=DAY)
    told = clean_up.run(rules, dry=True)
    assert told.counts == {"version": 2, "job": 3, "checkpoint": 2, "event_file": 2}
    assert clean_up.run(rules, dry=False) == told


def test_a_study_stays_while_one_of_its_trials_is_needed(store: Store, home: Home, clean_up: CleanUp) -> None:
    study, trials = study_of(store, home, 2)
    store.jobs.create(parse_job({**SPEC, "model": {"from_job": {"job": trials[1]}}}))
    assert clean_up.run(policy(jobs={"older_than_days": 1}), dry=False).counts == {}
    assert store.jobs.get(trials[1]).parent_id == study


def test_trials_of_a_study_that_goes_on_are_not_touched(store: Store, home: Home, clean_up: CleanUp) -> None:
    study, trials = study_of(store, home, 1)
    with store._db.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == study).values(state="running", finished_at=None))
    rules = policy(checkpoints={"older_than_days": 0, "keep": 0}, event_files={"older_than_days": 0})
    assert clean_up.run(rules, dry=False).counts == {}
    assert epochs(home.runs / "m" / trials[0]) == [3, 2, 1]


def test_what_comes_while_it_runs_is_needed_too(
    store: Store, home: Home, clean_up: CleanUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ended(store, home)
    find = store.ended_jobs.older_than

    def late(*args: Any, **more: Any) -> Any:
        found = list(find(*args, **more))
        store.jobs.create(parse_job(SPEC), resume_from=f"m/{source}")
        return found

    monkeypatch.setattr(store.ended_jobs, "older_than", late)
    rules = policy(checkpoints={"older_than_days": 0, "keep": 0}, jobs={"older_than_days": 0})
    assert clean_up.run(rules, dry=False).counts == {}
    assert epochs(home.runs / "m" / source) == [3, 2, 1]


def test_more_things_than_are_named(store: Store, home: Home, clean_up: CleanUp) -> None:
    folder = home.runs / "m" / ended(store, home)
    for number in range(1100):
        (folder / f"events.out.tfevents.{number + 10}").touch()
    done = clean_up.run(policy(event_files={"older_than_days": 1}), dry=False)
    assert done.counts == {"event_file": 1102}
    assert len(done.things) == 1000


def test_one_at_a_time(clean_up: CleanUp) -> None:
    with clean_up._alone(), pytest.raises(Conflict, match="under way"):
        clean_up.run(policy(jobs={"older_than_days": 1}), dry=True)


@pytest.mark.parametrize(
    "wrong", [{}, {"jobs": None}, {"versions": {"keep": 0}}, {"jobs": {"older_than_days": -1}}, {"all": True}]
)
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RetentionPolicy.model_validate(json.loads(json.dumps(wrong)))
