import asyncio
from pathlib import Path

import pytest

from llmrouter.errors import Overloaded
from llmrouter.gateway.admit import RETRY_AFTER_S, Admission
from tests.support.gateway import error_of, request, shown, staged
from tests.support.upstream import Play, Stall, Wait, answer
from tests.support.waiting import until


def test_admits_as_many_as_may_be_and_no_more() -> None:
    admission = Admission(2)
    with admission.admit(), admission.admit():
        assert admission.inflight == 2
        with pytest.raises(Overloaded, match="2 a worker") as caught:
            admission.admit()
        assert caught.value.retry_after_s == RETRY_AFTER_S
    assert admission.inflight == 0


def test_a_slot_comes_back_however_its_call_ends() -> None:
    admission = Admission(1)
    for error in (ValueError, asyncio.CancelledError, KeyboardInterrupt):
        with pytest.raises(error), admission.admit():
            raise error
    with admission.admit():
        assert admission.inflight == 1


@pytest.mark.asyncio
async def test_one_call_too_many_is_told_to_come_back_and_goes_nowhere(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    play: Play = [Wait(go_on), answer(b"{}")]
    async with (
        staged(tmp_path, play, inflight_max=2) as stage,
        stage.connected() as first,
        stage.connected() as second,
    ):
        for client in (first, second):
            await client.send(stage.chat())
        await until(lambda: len(stage.upstream.seen) == 2, "the calls did not arrive")
        response = await stage.ask(stage.chat())
        assert (response.status, error_of(response)["code"]) == (503, "overloaded")
        assert response.headers[b"retry-after"] == b"1"
        assert error_of(response)["retry_after_s"] == 1
        listing = await stage.ask(request(b"/v1/models", stage.key, method=b"GET"))
        assert listing.status == 200
        go_on.set()
        for client in (first, second):
            assert (await shown(client)).status == 200
        await stage.at_rest()
        assert (await stage.ask(stage.chat())).status == 200
        assert len(await stage.calls(3)) == len(stage.upstream.seen) == 3


@pytest.mark.asyncio
async def test_callers_that_leave_never_use_up_the_slots(tmp_path: Path) -> None:
    """A slot that leaked would refuse everybody in the end."""
    async with staged(tmp_path, [Stall()], inflight_max=2) as stage:
        for _ in range(50):
            async with stage.connected() as client:
                await client.send(stage.chat(stream=True))
                await until(lambda: len(stage.upstream.seen) == len(stage.log) + 1, "not there")
                client.reset()
            await stage.at_rest()
        assert {line.code for line in stage.log} == {None}
