"""The plan of a cluster: seats, GPUs, ports. No GPU is needed to plan for them."""

from __future__ import annotations

import json
import socket

import pytest

from services.worker.members import (
    Place,
    Ports,
    Seat,
    gpu_names,
    own_address,
    seats,
    share_gpus,
    slot_seats,
    tasks,
)
from shared.errors import InvalidInput
from shared.settings import Settings
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


def test_members_elsewhere_are_told_and_named_by_their_own_address() -> None:
    away = {"worker-1": Place("w2", "10.0.0.2", 9, "0,1")}
    told = tasks(SERVED, [1, 2, 3], ["", "", "7"], host="10.0.0.1", elsewhere=away)
    assert told[0].addresses == {
        "chief": ["10.0.0.1:1"],
        "ps": ["10.0.0.1:2"],
        "worker": ["10.0.0.1:3", "10.0.0.2:9"],
    }
    assert [task.visible_gpus for task in told] == ["", "", "7", "0,1"]


def test_all_workers_but_the_first_take_a_slot_elsewhere() -> None:
    assert slot_seats(MultiWorkerMirroredStrategy(workers=3)) == ["worker-1", "worker-2"]
    assert slot_seats(ParameterServerStrategy(workers=2, ps=3)) == ["worker-1"]
    assert slot_seats(DefaultStrategy()) == []


def test_the_address_of_this_machine_is_the_one_that_talks_to_the_broker_unless_set() -> None:
    assert own_address(Settings(broker_url="redis://:secret@127.0.0.1:6379/0")) == "127.0.0.1"
    assert own_address(Settings(advertise_host="trainer-3.example")) == "trainer-3.example"
    assert own_address(Settings(broker_url="redis://no.such.host.invalid/0")) == socket.gethostname()


def test_ports_come_from_the_range_that_a_firewall_leaves_open() -> None:
    first = Ports()
    (free,) = first.take(1)
    first.release()
    ports = Ports(f"{free}-{free}")
    assert ports.take(1) == [free]
    with pytest.raises(OSError, match="MODELYARD_CLUSTER_PORTS"):
        Ports(f"{free}-{free}").take(1)
    ports.listen()
    socket.create_connection(("127.0.0.1", free), 2).close()
    ports.rest()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free), 2)
    assert not first.held
    with pytest.raises(OSError, match="MODELYARD_CLUSTER_PORTS"):
        Ports(f"{free}-{free}").take(1)
    ports.release()
