"""Administration of a state that no daemon has: the desks, opened for one operation."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.config.schema import Config
from llmrouter.daemon import build
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.eventbook import EventBook
from llmrouter.daemon.eventdesk import EventDesk
from llmrouter.daemon.explaindesk import ExplainAlone, ExplainDesk
from llmrouter.daemon.fresh import Fresh
from llmrouter.daemon.keydesk import Changed, KeyDesk
from llmrouter.daemon.limitdesk import LimitDesk
from llmrouter.daemon.operations import Args, Desk, refusing
from llmrouter.daemon.state import State, open_state
from llmrouter.daemon.teller import Teller
from llmrouter.quota.rulebook import Rulebook

_STATE_WAIT_S = 0.05
"""For another command; while a daemon starts or ends, who asks tries again."""


class Alone:
    """A state that no daemon has: its desks, opened for one operation."""

    def __init__(self, config: Config, state: State, stack: ExitStack) -> None:
        self._config = config
        self._state = state
        self._stack = stack
        self._keys = KeyBook(state.store, KeyDigest(state.digest_key))

    def keys(self) -> Desk:
        """Keys."""
        return KeyDesk(self._keys, time.time)  # noqa: TID251 - keys are dated by the calendar

    def events(self) -> Desk:
        """Denials."""
        return EventDesk(EventBook(self._state.store))

    def limits(self) -> Desk:
        """Limits and budgets; what nobody has counted yet is counted here in memory alone."""
        rulebook = build.rulebook(self._config, self._keys.keys(), 0)
        return LimitDesk(rulebook, self._teller(rulebook).standing)

    def explanations(self) -> Desk:
        """What would become of calls, were a daemon to start now."""
        rulebook = build.rulebook(self._config, self._keys.keys(), 0)
        clock = SteadyClock()
        desk = ExplainDesk(self._keys, rulebook, self._teller(rulebook).standing, clock.now_ms)
        fresh = Fresh(self._config, self._state.digest_key, self._keys.keys(), rulebook)
        return ExplainAlone(desk, fresh.explain)

    def _teller(self, rulebook: Rulebook) -> Teller:
        state = self._state
        teller = Teller(state.store, state.journal_dir, rulebook, SteadyClock().now_ms)
        self._stack.callback(teller.close)
        teller.recover()
        return teller


DESKS: Mapping[str, Callable[[Alone], Desk]] = {
    "keys": Alone.keys,
    "events": Alone.events,
    "limits": Alone.limits,
    "explain": Alone.explanations,
}
"""By what the names of their operations begin with."""


def do_alone(config: Config, op: str, args: Args) -> object:
    """Do `op` on the state of `config`.

    Raises ControlError if it is refused, StateError if the state cannot be used, StateBusy if
    somebody has it.
    """
    with ExitStack() as stack:
        state = stack.enter_context(open_state(Path(config.state), wait_s=_STATE_WAIT_S))
        opening = DESKS[op.partition(".")[0]]

        def step(args: Args) -> object:
            return opening(Alone(config, state, stack)).steps()[op](args)

        done = refusing(step, args)
        return done.result if isinstance(done, Changed) else done
