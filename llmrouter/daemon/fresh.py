"""A gateway as it would be if the daemon started now: to explain calls while none runs.

It serves nobody, listens nowhere and has no credentials. Its journal, in which nothing is ever
written, lies in a directory that goes with it; the state is left as it is.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from llmrouter.access.issued import IssuedKey
from llmrouter.config.load import workers
from llmrouter.config.schema import Config
from llmrouter.daemon import build, opening, routing
from llmrouter.daemon.channel import Start
from llmrouter.daemon.clock import SteadyClock
from llmrouter.gateway.exchange import Exchange
from llmrouter.gateway.explanation import Explanation, Question
from llmrouter.metering.journal import Journal, JournalFiles
from llmrouter.metering.records import Header
from llmrouter.quota.denials import Denials
from llmrouter.quota.leases import Leases
from llmrouter.quota.rulebook import Rulebook
from llmrouter.routing.conditions import Conditions

NOTE = (
    "no daemon runs: breakers, latencies, places and estimates are those of a fresh start, and no"
    " call is in flight"
)
_BOOT = "explain"


class Fresh:
    """Explains one call, and is gone."""

    def __init__(
        self, config: Config, digest_key: bytes, keys: Iterable[IssuedKey], rulebook: Rulebook
    ) -> None:
        self._config = config
        self._digest_key = digest_key
        self._keys = list(keys)
        self._rulebook = rulebook

    def explain(self, question: Question) -> Explanation:
        """What would become of the call; raises StartError where the daemon could not start."""
        explanation = asyncio.run(self._explain(question))
        explanation.notes.append(NOTE)
        return explanation

    async def _explain(self, question: Question) -> Explanation:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            journal_dir = stack.enter_context(tempfile.TemporaryDirectory())
            start = await self._start(journal_dir)
            header = Header(worker=_BOOT, boot=_BOOT, pid=os.getpid())
            files = JournalFiles(Path(journal_dir), header)
            journal = Journal(files, call_soon=loop.call_soon, call_later=loop.call_later)
            stack.callback(journal.close)
            leases = Leases(self._rulebook, wake=_say_nothing, flush_journal=journal.flush)
            conditions = Conditions(routing.breakers(self._config), now_s=loop.time())
            ring = build.keyring(start)
            parts = build.Parts(ring, journal, build.Quota(leases, Denials()), conditions)
            gateway = build.gateway(self._config, start, parts, _log_nothing)
            return build.explainer(self._config, gateway, ring).explain(question)

    async def _start(self, journal_dir: str) -> Start:
        clock = SteadyClock()
        return Start(
            worker=0,
            workers=workers(self._config.server),
            config=b"",
            secrets={},
            digest_key=self._digest_key,
            keys=self._keys,
            journal_dir=journal_dir,
            listener_fds=[],
            demo_path=str(Path(journal_dir) / "demo.sock"),
            started_at_s=0,
            boot=_BOOT,
            rules=self._rulebook.generation,
            prices=await opening.read_prices(self._config),
            clock_offset_ms=clock.offset_ms,
        )


def _say_nothing() -> None:
    """Leases that ask for nothing have nothing to say."""


def _log_nothing(exchange: Exchange) -> None:
    """No exchange ever ends here."""
