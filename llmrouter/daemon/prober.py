"""Active probes: whether upstreams answer, asked apart from any call.

Each upstream with `health` is asked every so often over a connection of its own, so that a probe
sees what a new call would: its name as it resolves now, its certificate, its greeting. So many
failures in a row and it is down; the first success and it is sound again.
"""

import asyncio
import random
from collections.abc import Callable, Iterable

import msgspec

from llmrouter.http1.deadlines import NEVER, Deadlines
from llmrouter.http1.errors import HttpError
from llmrouter.http1.origin import Origin
from llmrouter.http1.pool import Pool
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.tasks import spawn

_SWEEP_EVERY_S = 1.0
"""Connections of probes have no deadlines of their own: one time-out covers the whole probe."""
BODY_BYTES_MAX = 1_048_576
"""An answer without end must not keep a core of ours busy until the time-out."""
_NO_TIMEOUTS = UpstreamTimeouts(connect_s=NEVER, first_s=NEVER, idle_s=NEVER, total_s=NEVER)


class ProbeTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How one upstream is asked."""

    upstream: str
    origin: Origin
    path: bytes
    """Below the origin's own, with its slash."""
    headers: bytes
    """Whole lines: host and credential."""
    every_s: float
    timeout_s: float
    """For the whole of it, from the connection to the end of the answer."""
    failures: int
    """In a row, and it is down."""

    def __repr__(self) -> str:
        return f"<ProbeTerms {self.upstream} every={self.every_s:g}>"  # the headers are secret


class Streak:
    """Counts failures in a row; says when an upstream goes down, and when it comes back."""

    __slots__ = ("_failures", "_failures_max")

    def __init__(self, failures_max: int) -> None:
        self._failures_max = failures_max
        self._failures = 0

    def __repr__(self) -> str:
        return f"<Streak {self._failures} of {self._failures_max}>"

    def turns(self, *, succeeded: bool) -> bool:
        """Count one probe; whether it changes what is thought of the upstream."""
        was_down = self._failures >= self._failures_max
        self._failures = 0 if succeeded else self._failures + 1
        return was_down is not (self._failures >= self._failures_max)


Told = Callable[[str, str | None], None]
"""Hears an upstream's name and why it is down; None once it is sound again."""


class Prober:
    """All probes of a node."""

    def __init__(self, terms: Iterable[ProbeTerms], told: Told) -> None:
        self._told = told
        self._deadlines = Deadlines(asyncio.get_running_loop(), _SWEEP_EVERY_S)
        self._each = list(terms)

    def __repr__(self) -> str:
        return f"<Prober {[each.upstream for each in self._each]}>"

    async def run(self) -> None:
        """Probe until cancelled; then nothing of it is left."""
        probing = [spawn(self._keep(each), name=f"probe {each.upstream}") for each in self._each]
        try:
            await asyncio.gather(*probing)
        finally:
            for task in probing:
                task.cancel()
            if probing:
                await asyncio.wait(probing)
            self._deadlines.close()

    async def _keep(self, terms: ProbeTerms) -> None:
        pool = Pool(terms.origin, self._deadlines)
        streak = Streak(terms.failures)
        loop = asyncio.get_running_loop()
        # Spread out, so that many upstreams are not all asked in the same moment.
        next_at = loop.time() + terms.every_s * random.random()  # noqa: S311 - no secret
        try:
            while True:
                await asyncio.sleep(next_at - loop.time())
                next_at = max(next_at + terms.every_s, loop.time())
                failure = await probe(pool, terms)
                if streak.turns(succeeded=failure is None):
                    self._told(terms.upstream, failure)
        finally:
            pool.close()


async def probe(pool: Pool, terms: ProbeTerms) -> str | None:
    """Ask once: None if it is sound, else why not, in words without any secret."""
    answer = _Answer()
    try:
        async with asyncio.timeout(terms.timeout_s):
            connection = await pool.fresh(terms.timeout_s)
            try:
                connection.expect(answer, _NO_TIMEOUTS)
                connection.send(_request(terms))
                await answer.ended.wait()
            finally:
                connection.close()
    except TimeoutError:
        return f"no answer within {terms.timeout_s:g} s"
    except HttpError as error:
        return str(error)
    if answer.error is not None:
        return str(answer.error)
    if answer.body_bytes > BODY_BYTES_MAX:
        return f"its answer is longer than {BODY_BYTES_MAX} bytes"
    return None if answer.status // 100 == 2 else f"it answered {answer.status}"


class _Answer:
    """Hears a response; of its body nothing is kept."""

    def __init__(self) -> None:
        self.status = 0
        self.body_bytes = 0
        self.error: HttpError | None = None
        self.ended = asyncio.Event()

    def response_head(self, status: int, _headers: dict[bytes, bytes]) -> None:
        self.status = status

    def response_data(self, data: bytes) -> None:
        """It is counted, and no more."""
        self.body_bytes += len(data)
        if self.body_bytes > BODY_BYTES_MAX:
            self.ended.set()

    def response_end(self, *, framed: bool) -> None:
        self.ended.set()

    def response_lost(self, error: HttpError) -> None:
        self.error = error
        self.ended.set()


def _request(terms: ProbeTerms) -> bytes:
    target = terms.origin.path_prefix + terms.path
    ours = b"user-agent: llmrouter\r\naccept: */*\r\nconnection: close\r\n"
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (target, terms.headers, ours)
