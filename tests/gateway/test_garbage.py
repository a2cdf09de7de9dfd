"""No call leaves anything that only the garbage collector could free.

What it does leave piles up for some thousand calls; then a collection stops a whole worker for as
long as a hundred milliseconds, and every stream with it.
"""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from llmrouter.gateway import reply
from llmrouter.gateway.drain import DrainBounds
from llmrouter.routing.routes import Policy
from tests.support import compiled
from tests.support.garbage import no_collector
from tests.support.gateway import Pause, Stage, limited, shown, staged
from tests.support.ledger import at_once, money, requests, tokens
from tests.support.plays import BOTH, DONE, END, HALF, ROLE, delta, plain, refusing, said
from tests.support.raw import RawClient, connected
from tests.support.upstream import LAST_CHUNK, Cut, Play, Wait, chunk

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(
        compiled.library() is None,
        reason="interpreted, an exception keeps the frames that it went through, and they keep it",
    ),
]

CALLS = 10
EVERYTHING = (requests(100), tokens(10**6), at_once(50), money(10**6))
SLOWLY: Play = [HALF, chunk(ROLE), Wait(Pause()), chunk(delta(content="first")), Wait(Pause())]
"""A stream that is on its way for a while."""
WHOLE: Play = [*SLOWLY, chunk(END + DONE), LAST_CHUNK]
Ask = Callable[[Stage, RawClient, bytes], Coroutine[Any, Any, None]]


async def hear(_stage: Stage, client: RawClient, message: bytes) -> None:
    """All of the answer."""
    await client.send(message)
    await shown(client, to=b"POST")


async def part(_stage: Stage, client: RawClient, message: bytes) -> None:
    """What there is of one that is cut."""
    await client.send(message)
    await client.read_all()


async def leave(stage: Stage, client: RawClient, message: bytes) -> None:
    """Go once the answer has begun."""
    await client.send(message)
    await client.read()
    client.close()
    await stage.at_rest()


@pytest.mark.parametrize(
    ("play", "ask"),
    [
        pytest.param([plain("first")], hear, id="plain"),
        pytest.param([said("first", stream=True)], hear, id="stream-at-once"),
        pytest.param(WHOLE, hear, id="stream"),
        pytest.param([*SLOWLY, Cut()], part, id="stream-cut"),
        pytest.param(WHOLE, leave, id="stream-left"),
        pytest.param([*SLOWLY, Cut()], leave, id="stream-left-and-cut"),
        pytest.param([plain("long" * 1000)], hear, id="long"),
        pytest.param([plain("long" * 1000)[:4000], Wait(Pause()), Cut()], part, id="long-cut"),
        pytest.param([refusing(400)], hear, id="refused"),
        pytest.param([refusing(503)], hear, id="failed-over"),
    ],
)
async def test_a_call_leaves_nothing_to_the_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, play: Play, ask: Ask
) -> None:
    monkeypatch.setattr(reply, "PLAIN_BYTES_MAX", 1000)
    async with staged(
        tmp_path,
        play,
        others={"up2": [[plain()]]},
        routes={"gpt": BOTH},
        policies={"gpt": Policy(repeats_share=1.0)},
        strategy="ordered",
        quota=limited(*EVERYTHING),
        drain=DrainBounds(within_s=5, bytes_max=10**6),
    ) as stage:
        stream = ask is leave or HALF in play
        async with no_collector() as found:
            for _ in range(CALLS):
                async with connected(stage.address) as client:
                    await ask(stage, client, stage.chat(stream=stream))
                await stage.at_rest()
    assert found == {}


async def test_a_refused_call_leaves_nothing_to_the_collector(tmp_path: Path) -> None:
    async with staged(tmp_path, [plain("first")], quota=limited(requests(1))) as stage:
        refused = (
            stage.chat(),
            stage.chat(key=b"sk-wrong"),
            stage.chat(model="none"),
            b"x\r\n\r\n",
        )
        async with no_collector() as found:
            for message in refused * CALLS:
                await stage.ask(message)
    assert found == {}
