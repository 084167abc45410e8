"""Live events and logs: without a gap or a repeat, for many at once, until the job or the server ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import event as sql_event

from services.api import streams, watch
from shared.errors import Unavailable
from shared.jobs import Claim, JobError, JobState
from shared.store import Report, Store
from shared.views import EventView, JobView, ProgressView
from tests.builders import train_spec
from tests.integration.api.conftest import Api

SSE = {"Accept": "text/event-stream"}
Message = tuple[str, str | None, Any]


def read_stream(lines: Iterator[str]) -> Iterator[Message]:
    """(event, id, data) of each message; comments as ("", None, text)."""
    name, number, data = "message", None, ""
    for line in lines:
        if not line:
            if data:
                yield name, number, orjson.loads(data)
            name, number, data = "message", None, ""
        elif line.startswith(":"):
            yield "", None, line
        else:
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "id":
                number = value
            else:
                data += value


@contextmanager
def following(api: Api, job_id: str, **headers: str) -> Iterator[Iterator[Message]]:
    with api.http.stream("GET", f"/jobs/{job_id}/events", headers={**SSE, **headers}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield read_stream(answer.iter_lines())


def _claimed(store: Store) -> tuple[str, Claim]:
    job, _ = store.jobs.create(train_spec())
    taken = store.claims.claim(job.id, "w", 60)
    assert taken is not None
    return job.id, taken[0]


def _info(number: int) -> Report:
    return Report(events=[("info", {"n": number})])


def test_a_stream_tells_the_whole_life_of_a_job(api: Api) -> None:
    store = api.store
    job, _ = store.jobs.create(train_spec())
    with following(api, job.id) as messages:
        assert next(messages)[0] == "state"
        taken = store.claims.claim(job.id, "w", 60)
        assert taken is not None
        name, number, data = next(messages)
        assert (name, number, data["data"]["to"]) == ("state", "2", "running")
        EventView.model_validate(data)
        progress = {
            "epoch": 1,
            "epochs": 2,
            "step": 5,
            "steps": 10,
            "fraction": 0.25,
            "metrics": {"loss": 1.5},
        }
        store.claims.report(taken[0], Report(progress=progress))
        name, number, data = next(messages)
        assert (name, number) == ("progress", None)
        assert ProgressView.model_validate(data).fraction == 0.25
        store.claims.report(taken[0], Report(stage="training"))
        assert next(messages)[0] == "stage"
        store.claims.finish(taken[0], JobState.FAILED, error=JobError("oops", "It broke."))
        name, number, data = next(messages)
        assert (name, number, data["data"]["to"]) == ("state", "4", "failed")
        name, number, data = next(messages)
        assert (name, number) == ("end", None)
        assert JobView.model_validate(data).error
        assert list(messages) == [], "the server closes the stream"


def test_an_ended_job_is_replayed_and_closed(api: Api) -> None:
    job_id, claim = _claimed(api.store)
    for start in range(0, 1200, 100):
        api.store.claims.report(
            claim, Report(events=[("info", {"n": start + n}) for n in range(100)], progress={"epoch": 1})
        )
    api.store.claims.finish(claim, JobState.SUCCEEDED)
    with following(api, job_id) as messages:
        found = list(messages)
    assert [int(number) for _, number, _ in found[:-1] if number] == list(range(1, 1204))
    assert found[-1][0] == "end"
    for after, rest in (("1200", ["1201", "1202", "1203", None]), ("1203", [None]), ("99999", [None])):
        with following(api, job_id, **{"Last-Event-ID": after}) as messages:
            assert [number for _, number, _ in messages] == rest


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "٣", "9" * 30])
def test_a_resume_point_that_is_no_number_is_refused(api: Api, bad: str) -> None:
    job_id, _ = _claimed(api.store)
    answer = api.http.get(f"/jobs/{job_id}/events", headers={**SSE, "Last-Event-ID": bad.encode()})  # type: ignore[dict-item]
    assert (answer.status_code, answer.json()["field"]) == (422, "Last-Event-ID")


def test_reconnecting_at_any_time_loses_and_repeats_nothing(api: Api) -> None:
    """Events are written as fast as they can while a client drops its connection every few events."""
    job_id, claim = _claimed(api.store)

    def write() -> None:
        for number in range(300):
            api.store.claims.report(claim, _info(number))
        api.store.claims.finish(claim, JobState.SUCCEEDED)

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    ended = False
    while not ended:
        headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
        with following(api, job_id, **headers) as messages:
            for count, (name, number, _) in enumerate(messages):
                if number is not None:
                    seen.append(int(number))
                ended = name == "end"
                if count == 40:
                    break
    writer.join()
    assert seen == list(range(1, 304))


def test_a_watcher_that_falls_behind_the_ring_reads_from_the_store(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RING_EVENTS", 3)
    job_id, claim = _claimed(api.store)
    with following(api, job_id) as messages:
        first = [next(messages)[1] for _ in range(2)]
        for start in range(0, 50, 10):
            api.store.claims.report(claim, Report(events=[("info", {"n": start + n}) for n in range(10)]))
        api.store.claims.finish(claim, JobState.CANCELLED)
        rest = [number for _, number, _ in messages]
    assert [*first, *rest] == [*(str(n) for n in range(1, 54)), None]


def test_two_hundred_watchers_cost_the_store_as_much_as_one(api: Api) -> None:
    job_id, claim = _claimed(api.store)
    queries: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        queries.append(statement)

    async def watch_one(client: httpx.AsyncClient, ready: asyncio.Semaphore) -> list[str]:
        seen: list[str] = []
        async with client.stream("GET", f"/jobs/{job_id}/events", headers=SSE) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    seen.append(line[4:])
                    if len(seen) == 2:
                        ready.release()
                elif line == "event: end":
                    seen.append("end")
        return seen

    async def scenario() -> tuple[list[list[str]], int]:
        ready = asyncio.Semaphore(0)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=api.url, timeout=60, limits=limits) as client:
            watchers = [asyncio.create_task(watch_one(client, ready)) for _ in range(200)]
            for _ in watchers:
                await ready.acquire()
            engine = api.store._db.engine
            sql_event.listen(engine, "before_cursor_execute", count)
            await asyncio.sleep(2.0)
            sql_event.remove(engine, "before_cursor_execute", count)
            asked = len([statement for statement in queries if "event_seq, jobs.updated_at" in statement])
            api.store.claims.report(claim, _info(1))
            api.store.claims.finish(claim, JobState.SUCCEEDED)
            return await asyncio.gather(*watchers), asked

    threads = threading.active_count()
    seen, asked = asyncio.run(scenario())
    assert seen == [["1", "2", "3", "4", "end"]] * 200
    assert asked <= 9, "one query every quarter of a second"
    assert threading.active_count() - threads < 45, "no thread is held per watcher"


def test_silence_is_filled_with_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.1)
    job_id, _ = _claimed(api.store)
    with following(api, job_id) as messages:
        assert [next(messages)[0] for _ in range(4)] == ["state", "state", "", ""]


def test_a_stream_outlives_an_outage_of_the_store(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, claim = _claimed(api.store)
    real, failures = api.store.jobs.pulses, []

    def flaky(ids: list[str]) -> dict[str, tuple[int, float]]:
        if len(failures) < 4:
            failures.append(1)
            raise Unavailable("The database does not answer.")
        return real(ids)

    with following(api, job_id) as messages:
        assert [next(messages)[1] for _ in range(2)] == ["1", "2"]
        monkeypatch.setattr(api.store.jobs, "pulses", flaky)
        while not failures:
            time.sleep(0.01)
        api.store.claims.report(claim, _info(1))
        assert next(messages)[1] == "3"
    assert len(failures) == 4


def test_the_poller_rests_when_nobody_watches(api: Api) -> None:
    job_id, _ = _claimed(api.store)
    with following(api, job_id) as messages:
        next(messages)
    deadline = time.monotonic() + 5
    state = api.resources.watch
    # the server notices that the client is gone
    while state._topics and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state._topics == {}
    time.sleep(watch.TICK_SECONDS * 2)
    assert state._task is not None
    assert state._task.done()


def test_stopping_the_server_ends_its_streams(start_api: Callable[..., Api]) -> None:
    api = start_api()
    job_id, _ = _claimed(api.store)
    with following(api, job_id) as messages:
        next(messages)
        began = time.monotonic()
        stopper = threading.Thread(target=api.running.stop)
        stopper.start()
        assert [name for name, _, _ in messages if name == "end"] == []
        stopper.join()
    assert time.monotonic() - began < 10


# --- logs ---------------------------------------------------------------------------------------------------------


def _log_of(api: Api, claim: Claim) -> Path:
    api.store.claims.report(claim, Report(), run_dir="m/run")
    path = api.settings.paths.runs / "m" / "run" / "job.log"
    path.parent.mkdir(parents=True)
    return path


def test_a_log_is_read_in_pieces(api: Api) -> None:
    job_id, claim = _claimed(api.store)

    def read(**params: Any) -> tuple[bytes, str | None]:
        answer = api.http.get(f"/jobs/{job_id}/logs", params=params)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        return answer.content, answer.headers.get("x-next-offset")

    assert read() == (b"", "0"), "no run yet"
    path = _log_of(api, claim)
    assert read(tail=3) == (b"", "0"), "no log yet"
    content = b"".join(b"line %d\n" % n for n in range(30_000))
    path.write_bytes(content)
    end = str(len(content))
    assert read() == (content, end)
    assert read(offset=len(content) - 5) == (content[-5:], end)
    assert read(offset=len(content) + 100) == (b"", end)
    assert read(tail=2) == (b"line 29998\nline 29999\n", end)
    assert read(tail=20_000)[0].splitlines() == content.splitlines()[-20_000:]
    assert read(tail=100_000)[0] == content
    path.write_bytes(b"one\ntwo\nno end")
    assert read(tail=1)[0] == b"no end"
    assert read(tail=2)[0] == b"two\nno end"
    assert read(tail=9, offset=4)[0] == b"two\nno end"
    assert read(member="worker-1") == (b"", "0"), "no such member"
    path.with_name("job.worker-1.log").write_bytes(b"of a member\n")
    assert read(member="worker-1") == (b"of a member\n", "12")
    assert read(member="worker-1", follow=False, tail=1)[0] == b"of a member\n"
    for wrong in ({"offset": -1}, {"tail": 0}, {"follow": "maybe"}, {"member": "../../x"}):
        assert api.http.get(f"/jobs/{job_id}/logs", params=wrong).status_code == 422


def test_a_log_is_followed_until_the_job_ends(api: Api) -> None:
    job, _ = api.store.jobs.create(train_spec())
    chunks: list[bytes] = []
    with api.http.stream("GET", f"/jobs/{job.id}/logs", params={"follow": "true"}) as answer:
        assert answer.status_code == 200

        def write() -> None:
            taken = api.store.claims.claim(job.id, "w", 60)
            assert taken is not None
            path = _log_of(api, taken[0])
            for number in range(5):
                with path.open("ab") as file:
                    file.write(b"line %d\n" % number)
                time.sleep(0.2)
            api.store.claims.finish(taken[0], JobState.SUCCEEDED)

        writer = threading.Thread(target=write)
        writer.start()
        chunks.extend(answer.iter_raw())
        writer.join()
    assert b"".join(chunks) == b"".join(b"line %d\n" % n for n in range(5))
    assert len(chunks) > 1, "it came as it was written"
    again = api.http.get(f"/jobs/{job.id}/logs", params={"follow": "true", "tail": 1})
    assert again.content == b"line 4\n"
