"""The planned load: the conversations of a real trace, each with its lengths, and who plays them.

How long an answer takes goes by its length, with some chance; so that the 95th percentile of all is
the one that is wanted. The same load can be played at a daemon and straight at its upstream.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Iterable, Sequence

import msgspec

from llmrouter.tasks import spawn
from tests.support.load import Line, request
from tests.support.trace import arrivals

SEED = 20
SPREAD = 0.2
"""How much the time for a token differs: the deviation of its logarithm."""
STALE_S = 2.0
"""No connection is used again that was unused for so long: its other end may close it."""
WORD = "word"


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One call as it is to be made."""

    serial: int
    at_s: float
    """When, from the start of the play."""
    prompt_tokens: int
    output_tokens: int
    takes_s: float
    """How long the upstream takes for it."""
    stream: bool


class Heard(msgspec.Struct, frozen=True):
    """What became of a call, as its caller saw it."""

    is_whole: bool
    took_s: float
    """With the time to connect, where it had to."""
    request_id: str = ""
    said: str = ""
    """What went wrong."""


def plans(span_s: float, *, speed: float, p95_s: float) -> list[Planned]:
    """The conversations of the first so many seconds of the trace, played that much faster."""
    chance = random.Random(SEED)
    found = [row for row in arrivals() if row[1] == "conversation" and row[0] < span_s]
    drawn = [output * chance.lognormvariate(0, SPREAD) for *_, output in found]
    unit_s = p95_s / percentile(drawn, 95)
    return [
        Planned(
            serial=serial,
            at_s=at_s / speed,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            takes_s=takes * unit_s,
            stream=chance.random() < 0.5,
        )
        for serial, ((at_s, _, prompt_tokens, output_tokens), takes) in enumerate(
            zip(found, drawn, strict=True), 1
        )
    ]


def percentile(values: Iterable[float], percent: int) -> float:
    """The value that so many percent of all do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


class Player:
    """Plays planned calls at one address."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._address = host, port
        self._key = key
        self._idle: list[tuple[Line, float]] = []
        """With the times since when they are."""
        self._now = asyncio.get_running_loop().time
        self.heard: dict[int, Heard] = {}
        """By serial number."""

    async def play(self, planned: Sequence[Planned]) -> None:
        """Make all calls, each at its time, however many are under way."""
        start_s = self._now()
        calls = []
        for call in planned:
            await asyncio.sleep(start_s + call.at_s - self._now())
            calls.append(spawn(self._call(call), name=f"call {call.serial}"))
        await asyncio.gather(*calls)
        for line, _ in self._idle:
            await line.close()

    async def _call(self, call: Planned) -> None:
        message = self._message(call)
        began_s = time.monotonic()  # the loop's own counts in milliseconds
        try:
            line = await self._line()
            answer = await line.ask(message)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as failure:
            self.heard[call.serial] = Heard(False, time.monotonic() - began_s, said=repr(failure))
            return
        took_s = time.monotonic() - began_s
        self._idle.append((line, self._now()))
        is_whole = answer.status == 200 and answer.body.count(WORD.encode()) == call.output_tokens
        said = "" if is_whole else f"{answer.status}: {answer.body[-300:]!r}"
        request_id = answer.headers.get("x-request-id", "")
        self.heard[call.serial] = Heard(is_whole, took_s, request_id, said)

    async def _line(self) -> Line:
        while self._idle:
            line, since_s = self._idle.pop()
            if self._now() - since_s < STALE_S:
                return line
            await line.close()
        return Line(*await asyncio.open_connection(*self._address))

    def _message(self, call: Planned) -> bytes:
        text = " ".join([WORD] * (call.prompt_tokens - 1))
        messages = [
            {"role": "system", "content": f"{call.takes_s:.6f}"},
            {"role": "user", "content": text},
        ]
        body = {"model": "far", "messages": messages, "max_tokens": call.output_tokens}
        return request(self._key, {**body, "stream": call.stream})


async def played(host: str, port: int, key: str, planned: Sequence[Planned]) -> dict[int, Heard]:
    """Play the calls; what was heard of each, by serial number."""
    player = Player(host, port, key)
    await player.play(planned)
    return player.heard
