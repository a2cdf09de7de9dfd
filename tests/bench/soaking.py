"""The clients of a soak: they call in every way, leave, change keys, and remember it all."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from llmrouter.daemon.control import ask
from llmrouter.daemon.state import control_path
from tests.support.daemon import Daemon
from tests.support.faults import WORDS, Fault, Kind
from tests.support.load import Answer, Line, connected, request
from tests.support.streams import Stream

FAULTS = {
    "failing": Fault(Kind.STATUS, status=500, every=7),
    "cutting": Fault(Kind.CUT, every=5),
    "leaving": Fault(Kind.SLOW, seconds=0.1),  # so that there is a middle to leave in
}
MODELS = ("plain", "stream", "leaving", "failing", "cutting", "fresh")
"""What is called how, and by the same name; `fresh` is called with keys that live for one call."""
ON_A_LINE = 20
"""Calls at most that a connection is used for."""
_ANY = 10**9
"""More events than any stream has."""


class Clients:
    """Who calls, and what they remember of it."""

    def __init__(self, daemon: Daemon, key: dict[str, str], seconds: float) -> None:
        self._daemon = daemon
        self._key = key
        self._end_s = time.monotonic() + seconds
        self._chance = random.Random(round(seconds))
        self.ids: dict[str, list[str]] = {model: [] for model in MODELS}
        """Of all calls that have ended, by model."""
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.cut = 0
        """Streams that were."""
        self.changes = 0
        """Of keys."""
        self.took_s: list[float] = []
        """How long plain calls took, since somebody looked."""

    @property
    def calls(self) -> int:
        """How many have ended."""
        return self.statuses.total()

    @property
    def _is_over(self) -> bool:
        return time.monotonic() >= self._end_s

    async def run(self) -> None:
        """Call, all at once, until the time is over; raises what went wrong."""
        roles = [
            (self._plain, 6, 0.05),
            (self._stream, 3, 0.05),
            (self._leave, 4, 0.2),
            (self._failing, 2, 0.1),
            (self._cutting, 2, 0.1),
            (self._change_keys, 1, 0.5),
        ]
        async with asyncio.TaskGroup() as group:
            for call, callers, pause_s in roles:
                for _ in range(callers):
                    group.create_task(self._again(call, pause_s), name=call.__name__)

    async def _again(self, call: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while not self._is_over:
            await call()
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        await asyncio.sleep(self._chance.expovariate(1 / pause_s))

    def _message(self, model: str, key: str | None = None, *, stream: bool = False) -> bytes:
        messages = [{"role": "user", "content": f"{model} says hello"}]
        call = {"model": model, "max_tokens": WORDS, "messages": messages, "stream": stream}
        return request(key or self._key["key"], call)

    def _note(self, model: str, status: int, request_id: str) -> None:
        self.statuses[model, status] += 1
        self.ids[model].append(request_id)

    async def _ask(self, line: Line, model: str, key: str | None = None) -> Answer:
        answer = await line.ask(self._message(model, key))
        self._note(model, answer.status, answer.headers["x-request-id"])
        return answer

    async def _begun(self, model: str) -> Stream:
        stream = await Stream.send(self._daemon, self._message(model, stream=True))
        status = await stream.begin()
        self._note(model, status, stream.request_id)
        assert status == 200, model
        return stream

    # ---- ways to call -------------------------------------------------------------------------

    async def _plain(self) -> None:
        """Some calls on one connection, which are timed."""
        async with connected(self._daemon, 1) as (line,):
            for _ in range(self._chance.randint(1, ON_A_LINE)):
                answer = await self._ask(line, "plain")
                assert answer.status == 200, answer.body
                self.took_s.append(answer.took_s)
                await self._pause(0.1)
                if self._is_over:
                    break

    async def _stream(self) -> None:
        stream = await self._begun("stream")
        assert await stream.read(_ANY) > WORDS
        stream.leave(reset=False)

    async def _leave(self) -> None:
        """Leave a stream in the middle, in either way."""
        stream = await self._begun("leaving")
        await stream.read(self._chance.randint(0, WORDS // 2))
        stream.leave(reset=self._chance.random() < 0.5)

    async def _failing(self) -> None:
        async with connected(self._daemon, 1) as (line,):
            await self._ask(line, "failing")

    async def _cutting(self) -> None:
        stream = await self._begun("cutting")
        try:
            events = await stream.read(_ANY)
        except (asyncio.IncompleteReadError, ConnectionError):
            events = 0
        self.cut += events < WORDS
        stream.leave(reset=False)

    async def _change_keys(self) -> None:
        """Change a rule of the key that all use; issue one, call with it, and revoke it."""
        self.changes += 1
        rule = f"requests={10**7 + self.changes}/minute"
        await self._control("keys.update", id=self._key["id"], limits=[rule])
        fresh = await self._control("keys.create", org="acme")
        async with connected(self._daemon, 1) as (line,):
            answer = await self._ask(line, "fresh", fresh["key"])
            assert answer.status == 200, answer.body
            await self._control("keys.revoke", id=fresh["id"])
            denied = await line.ask(self._message("fresh", fresh["key"]))
            assert denied.status == 401, denied.body

    async def _control(self, operation: str, **args: object) -> dict[str, str]:
        path = control_path(self._daemon.state)
        found = await asyncio.to_thread(ask, path, operation, args)
        assert isinstance(found, dict)
        return found
