"""The plan of a cluster: seats, GPUs, ports. No GPU is needed to plan for them."""

from __future__ import annotations

import json
import socket

import pytest

from services.worker.members import Ports, Seat, gpu_names, seats, share_gpus, tasks
from shared.errors import InvalidInput
from shared.specs import DefaultStrategy, MultiWorkerMirroredStrategy, ParameterServerStrategy

MIRRORED = seats(MultiWorkerMirroredStrategy(workers=2))
SERVED = seats(ParameterServerStrategy(workers=2, ps=1))


def test_the_chief_comes_first_and_other_strategies_have_no_cluster() -> None:
    assert [seat.name for seat in MIRRORED] == ["worker-0", "worker-1"]
    assert [seat.name for seat in SERVED] == ["chief-0", "ps-0", "worker-0", "worker-1"]
    assert seats(DefaultStrategy()) == []


@pytest.mark.parametrize(
    ("members", "gpus", "shares"),
    [
        (MIRRORED, [], [None, None]),
        (MIRRORED, ["0", "1"], ["0", "1"]),
        (MIRRORED, ["4", "5", "6", "7"], ["4,5", "6,7"]),
        (
            MIRRORED,
            ["0", "1", "2"],
            ["0", "1"],
        ),  # equal shares: a replica more on one would wait for the other
        (
            SERVED,
            ["0", "1"],
            ["", "", "0", "1"],
        ),  # neither the chief nor a parameter server takes a GPU's memory
        (SERVED, ["GPU-8f", "GPU-9a"], ["", "", "GPU-8f", "GPU-9a"]),
    ],
)
def test_each_member_that_computes_gets_gpus_of_its_own(
    members: list[Seat], gpus: list[str], shares: list[str | None]
) -> None:
    assert share_gpus(members, gpus) == shares


def test_fewer_gpus_than_workers_is_an_error_that_says_what_would_do() -> None:
    with pytest.raises(InvalidInput) as caught:
        share_gpus(MIRRORED, ["0"])
    assert caught.value.field == "strategy.workers"
    assert "1 GPU" in caught.value.message


def test_gpus_keep_the_names_that_the_operator_made_visible() -> None:
    assert gpu_names(2, None) == ["0", "1"]
    assert gpu_names(2, "2,3") == ["2", "3"]
    assert gpu_names(0, "") == []


def test_a_port_is_nobodys_until_a_server_listens_at_it() -> None:
    ports = Ports()
    taken = ports.take(20)
    assert len(set(taken)) == 20
    with socket.socket() as server:  # as gRPC does it
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", taken[0]))
        server.listen()
        with socket.create_connection(("127.0.0.1", taken[0]), 2):
            pass
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", taken[1]))
    ports.release()
    with socket.socket() as other:
        other.bind(("", taken[1]))


def test_every_member_is_told_the_same_addresses_and_its_own_place() -> None:
    told = tasks(SERVED, [1, 2, 3, 4], ["", "", "0", "1"])
    addresses = {
        "chief": ["127.0.0.1:1"],
        "ps": ["127.0.0.1:2"],
        "worker": ["127.0.0.1:3", "127.0.0.1:4"],
    }
    assert [task.is_chief for task in told] == [True, False, False, False]
    assert json.loads(told[3].tf_config) == {"cluster": addresses, "task": {"type": "worker", "index": 1}}
    assert told[3].visible_gpus == "1"
    assert [task.is_chief for task in tasks(MIRRORED, [1, 2], [None, None])] == [True, False]
