"""A program's place in a cluster: what its failures mean, and how a wish to stop becomes everybody's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from services.worker.members import seats, tasks
from services.worker.training import membership
from services.worker.training.stopping import StopRequested, StopSignal
from shared.specs import MultiWorkerMirroredStrategy, ParameterServerStrategy

MIRRORED = seats(MultiWorkerMirroredStrategy(workers=2))
TASK = tasks(MIRRORED, [1, 2], [None, None])[1]


def error(name: str, text: str) -> Exception:
    """As tf.errors has them; a member's failure is told by its class' name."""
    return type(name, (Exception,), {})(text)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("UnavailableError", "Collective ops is aborted by: stopped sending heartbeats", "member_lost"),
        ("UnavailableError", "Socket closed", "member_lost"),
        ("InternalError", "Collective ops is aborted by: Connection reset by peer", "member_lost"),
        ("UnknownError", "Could not start gRPC server", "port_taken"),
        ("InvalidArgumentError", "Collective ops is aborted by: Shape mismatch", None),
        ("ValueError", "the data are wrong", None),
    ],
)
def test_a_failure_that_only_says_that_another_is_gone_is_told_apart(
    name: str, text: str, code: str | None
) -> None:
    found = membership.explain(error(name, text), TASK)
    assert (found.code if found is not None else None) == code
    assert membership.explain(error(name, text), None) is None, "alone there is nobody to be gone"


def test_who_serves() -> None:
    served = seats(ParameterServerStrategy(workers=1))
    told = tasks(served, [1, 2, 3], ["", "", "0"])
    assert [membership.serves(task) for task in told] == [False, True, True]
    assert not membership.serves(TASK)
    assert not membership.serves(None)


@pytest.fixture
def term() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("term")
def test_a_wish_to_stop_is_honoured_when_all_have_agreed() -> None:
    chief = StopSignal()
    chief.install()
    chief.by_agreement(follows=False)
    with chief.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert (chief.wished, chief.requested) == (True, False)
        chief.check()  # nothing is agreed on
        chief.agreed(chief.wished)
        with pytest.raises(StopRequested):
            chief.check()
    chief.requested = False
    with pytest.raises(StopRequested):
        chief.check()  # training is over: a wish that came too late for it is not forgotten


@pytest.mark.usefixtures("term")
def test_who_follows_never_stops_by_itself() -> None:
    follower = StopSignal()
    follower.install()
    follower.by_agreement(follows=True)
    os.kill(os.getpid(), signal.SIGTERM)
    follower.check()
    with follower.deferred():
        follower.check()
    follower.agreed(True)
    with pytest.raises(StopRequested):
        follower.check()
