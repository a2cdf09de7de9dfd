"""What a supervisor does behind its control socket, and how a refusal of it is told.

Desks do the steps. A change of keys is answered only when every worker has it in force.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from llmrouter.access.issued import IssuedKey
from llmrouter.access.keybook import UnknownKey
from llmrouter.contracts.store import StoreError
from llmrouter.daemon.control import ControlError, Operation
from llmrouter.daemon.eventdesk import EventDesk
from llmrouter.daemon.explaindesk import ExplainDesk
from llmrouter.daemon.keydesk import Changed, KeyDesk
from llmrouter.daemon.limitdesk import LimitDesk
from llmrouter.daemon.teller import JournalError
from llmrouter.gateway.explanation import Explanation, Question

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
