"""What waits for the first loads, and what does not."""

from __future__ import annotations

import asyncio

from services.serving.first_loads import FirstLoads


def test_a_model_waits_for_itself_only_and_it_is_over_for_good() -> None:
    looked, pending = [False], {"slow"}
    loads = FirstLoads(lambda: looked[0], lambda: pending)
    assert not loads.over("any"), "nobody knows yet which models there are"
    looked[0] = True
    assert (loads.over("slow"), loads.over("any"), loads.over()) == (False, True, False)
    pending.clear()
    loads.wait_for_all()
    pending.add("later")
    assert loads.over("later"), "a model that comes later is loaded as ever"


def test_a_stop_lets_them_go_on() -> None:
    loads = FirstLoads(lambda: True, lambda: {"m"})

    async def run() -> None:
        waiting = asyncio.ensure_future(loads.wait("m"))
        await asyncio.sleep(0)
        assert not waiting.done()
        loads.stop()
        await waiting

    asyncio.run(run())
