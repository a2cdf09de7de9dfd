import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmrouter.contracts.call import Usage
from llmrouter.gateway import shadow as shadow_module
from llmrouter.gateway.shadow import SHADOW, Shadow
from llmrouter.metering.records import NO_USAGE
from llmrouter.metering.replay import JournaledCall
from tests.support.gateway import Stage, limited, reporting, staged
from tests.support.ledger import requests
from tests.support.upstream import Cut, Play, Reset, Stall, Wait, answer, chunk, stream, stream_head
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

SERVED = [reporting(9, 4)]
ALL = {"gpt": Shadow(upstream="dark", model="newer", share=1.0)}
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7}}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


async def of_shadow(stage: Stage) -> JournaledCall:
    """The one shadow in the journal, ended."""
    calls = await stage.calls(2)
    (found,) = [call for call in calls if call.begin.org == SHADOW]
    return found


@pytest.mark.parametrize("streams", [False, True])
async def test_a_copy_goes_to_the_shadow_and_its_answer_to_nobody(
    tmp_path: Path, streams: bool
) -> None:
    """Accounted apart: under nobody's name, with the request id of the call."""
    dark: Play = [stream(TEXT, USAGE, DONE)] if streams else [reporting(9, 7)]
    served: Play = [stream(TEXT, DONE)] if streams else SERVED
    async with staged(tmp_path, served, others={"dark": [dark]}, shadows=ALL) as stage:
        response = await stage.ask(stage.chat(stream=streams, seed=7))
        assert response.status == 200
        call = await of_shadow(stage)
        assert response.headers[b"x-llmrouter-deployment"] == b"up/gpt-real"
        assert (call.begin.request_id, call.begin.key_id) == (
            response.headers[b"x-request-id"].decode(),
            SHADOW,
        )
        assert (call.begin.model, call.begin.deployment) == ("gpt", "dark/newer")
        assert call.end is not None
        assert (call.end.outcome, call.end.estimated) == ("ok", False)
        assert call.end.usage == Usage(prompt_tokens=9, output_tokens=7)
        (seen,) = stage.scripts["dark"].seen
        sent = msgspec.json.decode(seen.body)
        assert (sent["model"], sent["seed"]) == ("newer", 7)


async def test_it_is_charged_to_nobody(tmp_path: Path) -> None:
    quota = limited(requests(5))
    play = {"dark": [[reporting(9, 7)]]}
    async with staged(tmp_path, SERVED, others=play, shadows=ALL, quota=quota) as stage:
        for _ in range(3):
            assert (await stage.ask(stage.chat())).status == 200
        await stage.calls(6)
        (bucket,) = stage.node.standing().values()
        assert bucket.used == 3


FAILING: dict[str, Play] = {
    "refused": [answer(b"{}", status=500)],
    "reset": [Reset()],
    "cut": [stream_head(), chunk(TEXT), Cut()],
    "malformed": [stream(b"data: {\n\n")],
    "malformed-later": [stream(TEXT, b"data: {\n\n", DONE)],
    "not-json": [answer(b"<html>")],
    "no-end": [stream(TEXT)],
}


@pytest.mark.parametrize("play", FAILING.values(), ids=FAILING)
async def test_a_shadow_that_fails_disturbs_nobody(tmp_path: Path, play: Play) -> None:
    async with staged(tmp_path, SERVED, others={"dark": [play]}, shadows=ALL) as stage:
        assert (await stage.ask(stage.chat(stream=True))).status == 200
        call = await of_shadow(stage)
        assert call.end is not None
        assert (call.end.outcome, call.end.usage) == ("upstream_error", NO_USAGE)


async def test_a_call_does_not_wait_for_its_shadow(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    dark: Play = [Wait(go_on), reporting(9, 7)]
    async with staged(tmp_path, SERVED, others={"dark": [dark]}, shadows=ALL) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        await stage.calls(1)
        go_on.set()
        await of_shadow(stage)


async def test_shadows_that_run_when_a_worker_ends_are_ended(tmp_path: Path) -> None:
    """The stage's own check: nothing is left interrupted."""
    async with staged(tmp_path, SERVED, others={"dark": [[Stall()]]}, shadows=ALL) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        await until(lambda: len(stage.scripts["dark"].seen) == 1, "no shadow was cast")


async def test_only_its_share_of_the_calls_is_copied(tmp_path: Path) -> None:
    """The stage draws 0.5 for each."""
    few = {"gpt": Shadow(upstream="dark", model=None, share=0.5)}
    async with staged(tmp_path, SERVED, others={"dark": [SERVED]}, shadows=few) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        await stage.calls(1)
        assert stage.scripts["dark"].seen == []


@pytest.mark.parametrize("bound", ["running", "places"])
async def test_no_shadow_is_cast_where_there_is_no_room(
    tmp_path: Path, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {}
    if bound == "running":
        monkeypatch.setattr(shadow_module, "RUNNING_MAX", 0)
    else:
        more["concurrent"] = {"dark": 1}  # the ledger has it: a shadow does not ask
    async with staged(tmp_path, SERVED, others={"dark": [SERVED]}, shadows=ALL, **more) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        await stage.calls(1)
        assert stage.scripts["dark"].seen == []


async def test_nobody_is_copied_who_was_refused(tmp_path: Path) -> None:
    quota = limited(requests(1))
    play = {"dark": [SERVED]}
    async with staged(tmp_path, SERVED, others=play, shadows=ALL, quota=quota) as stage:
        assert (await stage.ask(stage.chat())).status == 200
        assert (await stage.ask(stage.chat())).status == 429
        await stage.calls(2)
        assert len(stage.scripts["dark"].seen) == 1
