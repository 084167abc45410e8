"""The policy as a table: what is there, what comes next."""

from __future__ import annotations

import pytest

from services.serving.policy import Action, Load, Snapshot, State, Unload, next_action

START, LOADING, AVAILABLE, UNLOADING, END = State


def old(version: int, state: State = AVAILABLE) -> Snapshot:
    return Snapshot(version, state, wanted=False)


def new(version: int, state: State = START) -> Snapshot:
    return Snapshot(version, state, wanted=True)


@pytest.mark.parametrize(
    ("versions", "action"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([new(1), new(2)], Load(2), id="the highest is loaded first"),
        pytest.param([old(1), new(2)], Load(2), id="load before unload"),
        pytest.param([old(1), new(2, LOADING)], None, id="the old one serves while the new one loads"),
        pytest.param([old(1), new(2, AVAILABLE)], Unload(1), id="then it goes"),
        pytest.param([old(1), old(2), new(3)], Unload(1), id="one old one is enough"),
        pytest.param([old(1), new(2, END)], None, id="a failed new one leaves the old one serving"),
        pytest.param([old(1), old(2)], Unload(1), id="nothing is wanted"),
        pytest.param([old(3), new(2)], Load(2), id="roll back by deletion"),
        pytest.param([new(1, AVAILABLE), new(2)], Load(2), id="more than one is wanted"),
        pytest.param([old(1, UNLOADING), old(2, END), new(3, AVAILABLE)], None, id="all is done"),
    ],
)
def test_next_action(versions: list[Snapshot], action: Action | None) -> None:
    assert next_action(versions) == action
    assert next_action(versions[::-1]) == action
