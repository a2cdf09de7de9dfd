"""Administration: the same operations, with the daemon up or down.

A desk does them on an open state. The supervisor runs one of each kind behind its control socket,
where a change of keys is answered only when every worker has it in force (`operations`). The
command line asks that supervisor, or opens the state itself while none runs (`administer`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec

from llmrouter.access.issued import IssuedKey
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook, UnknownKey
from llmrouter.config.schema import Config
from llmrouter.contracts.store import StoreError
from llmrouter.daemon import build, control
from llmrouter.daemon.clock import SteadyClock
from llmrouter.daemon.control import ControlError, NotRunning, Operation
from llmrouter.daemon.eventbook import EventBook
from llmrouter.daemon.eventdesk import EventDesk
from llmrouter.daemon.explaindesk import ExplainAlone, ExplainDesk
from llmrouter.daemon.fresh import Fresh
from llmrouter.daemon.keydesk import Changed, KeyDesk
from llmrouter.daemon.limitdesk import LimitDesk
from llmrouter.daemon.state import State, StateBusy, control_path, open_state
from llmrouter.daemon.teller import JournalError, Teller
from llmrouter.gateway.explanation import Explanation, Question
from llmrouter.quota.rulebook import Rulebook

_HANDOVER_S = 10.0
"""How long a daemon may take between opening the state and answering on its control socket."""
_HANDOVER_POLL_S = 0.05
_NOT_CONFIRMED = "but a worker has not confirmed it in time; run the same command again"
_UNCONFIRMED = {
    "keys.update": f"the key is changed, {_NOT_CONFIRMED}",
    "keys.revoke": f"the key is revoked, {_NOT_CONFIRMED}",
}
"""By operation. `keys.create` is not here: a new key is shown in any case, or it would be lost."""

Args = dict[str, object]
Step = Callable[[Args], object]
Answered = Callable[[Question], Awaitable[Explanation | None]]
"""What a worker says of a call; None where none does."""
Published = Callable[[Iterable[IssuedKey]], Awaitable[bool]]
"""Puts keys in force; False if a worker has not confirmed them."""


class Desk(Protocol):
    """What can be done with one kind of things."""

    def steps(self) -> Mapping[str, Step]:
        """The operations by name; they raise ValueError, UnknownKey, StoreError, JournalError."""


# ---- by the command line --------------------------------------------------------------------


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


def administer(config: Config, op: str, args: Args) -> object:
    """Do `op` through the daemon of `config.state`, or on that state itself; blocks.

    Raises ControlError if it is refused, StateError if the state cannot be used.
    """
    state = Path(config.state)
    deadline = time.monotonic() + _HANDOVER_S
    while True:
        try:
            return control.ask(control_path(state), op, args)
        except NotRunning:
            try:
                return _do_alone(config, op, args)
            except StateBusy:
                # Somebody has just taken the state and does not answer yet, or no longer.
                if time.monotonic() > deadline:
                    raise


def _do_alone(config: Config, op: str, args: Args) -> object:
    with ExitStack() as stack:
        state = stack.enter_context(open_state(Path(config.state), wait_s=_HANDOVER_POLL_S))
        opening = DESKS[op.partition(".")[0]]

        def step(args: Args) -> object:
            return opening(Alone(config, state, stack)).steps()[op](args)

        done = refusing(step, args)
        return done.result if isinstance(done, Changed) else done


# ---- behind the control socket --------------------------------------------------------------


def operations(
    keys: KeyDesk,
    events: EventDesk,
    limits: LimitDesk,
    explanations: ExplainDesk,
    *,
    publish: Published,
    answer: Answered,
) -> dict[str, Operation]:
    """What a supervisor offers.

    `publish` puts changed keys in force everywhere, `answer` has a worker explain a call.
    """
    return {
        **{name: _changing(name, step, keys, publish) for name, step in keys.steps().items()},
        **{name: _in_thread(step) for name, step in events.steps().items()},
        **{name: _at_once(step) for name, step in limits.steps().items()},
        "explain": _answered(explanations, answer),
    }


def _answered(desk: ExplainDesk, answer: Answered) -> Operation:
    async def operation(args: Args) -> object:
        question = refusing(desk.question, args)
        assert isinstance(question, Question)
        explanation = await answer(question)
        if explanation is None:
            reason = "no worker has answered; it may be starting or draining: ask again"
            raise ControlError("no_answer", f"{reason}, or see the daemon's log")
        return explanation

    return operation


def _changing(name: str, step: Step, desk: KeyDesk, publish: Published) -> Operation:
    async def operation(args: Args) -> object:
        done = refusing(step, args)
        if not isinstance(done, Changed):
            return done
        if await publish(done.keys):
            desk.confirmed(done.keys)
        elif name in _UNCONFIRMED:
            raise ControlError("not_confirmed", _UNCONFIRMED[name])
        return done.result

    return operation


def _in_thread(step: Step) -> Operation:
    """For what may have much to read."""

    async def operation(args: Args) -> object:
        return await asyncio.to_thread(refusing, step, args)

    return operation


def _at_once(step: Step) -> Operation:
    async def operation(args: Args) -> object:
        return refusing(step, args)

    return operation


def refusing(step: Step, args: Args) -> object:
    """Run `step`; what it cannot do becomes a ControlError."""
    try:
        return step(args)
    except UnknownKey as error:
        raise ControlError("unknown_key", str(error)) from error
    except (msgspec.ValidationError, ValueError) as error:
        raise ControlError("invalid_request", str(error)) from error
    except StoreError as error:
        raise ControlError("store_error", str(error)) from error
    except JournalError as error:
        raise ControlError("journal_error", str(error)) from error
