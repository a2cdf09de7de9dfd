"""Administration of keys: the same operations with the daemon up or down.

`KeyDesk` does them on an open state; the supervisor runs one behind the control socket, where a
change is answered only when every worker has it in force. `administer`, for the command line, asks
that supervisor, or opens the state itself while none runs.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from llmrouter.access.issued import IssuedKey, KeyTerms
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook, UnknownKey
from llmrouter.contracts.store import StoreError
from llmrouter.daemon import control
from llmrouter.daemon.control import ControlError, NotRunning, Operation
from llmrouter.daemon.state import StateBusy, control_path, open_state

_HANDOVER_S = 10.0
"""How long a daemon may take between opening the state and answering on its control socket."""
_HANDOVER_POLL_S = 0.05

_read_view = msgspec.json.Decoder(dict[str, object]).decode

_NOT_CONFIRMED = (
    "the key is revoked, but a worker has not confirmed it in time; run the same command again"
)

Published = Callable[[Iterable[IssuedKey]], Awaitable[bool]]
"""Puts keys in force; False if a worker has not confirmed them."""


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Which(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str


class KeyDesk:
    """What can be done with keys; arguments and results are plain JSON values."""

    def __init__(self, book: KeyBook, wall: Callable[[], float]) -> None:
        self._book = book
        self._wall = wall

    def create(self, args: dict[str, object]) -> tuple[object, list[IssuedKey]]:
        """Issue a key: its view with the key's text, and what changed."""
        key, text = self._book.create(msgspec.convert(args, KeyTerms), self._wall())
        view = self._view(key)
        return {"id": view.pop("id"), "key": text, **view}, [key]

    def revoke(self, args: dict[str, object]) -> tuple[object, list[IssuedKey]]:
        """End a key for good."""
        key = self._book.revoke(_id(args), self._wall())
        return self._view(key), [key]

    def show(self, args: dict[str, object]) -> tuple[object, list[IssuedKey]]:
        """One key."""
        return self._view(self._book.get(_id(args))), []

    def list(self, args: dict[str, object]) -> tuple[object, "list[IssuedKey]"]:
        """Every key, oldest first."""
        msgspec.convert(args, _Nothing)
        return [self._view(key) for key in self._book.keys()], []  # noqa: SIM118 - not a dict

    def _view(self, key: IssuedKey) -> dict[str, object]:
        # By way of JSON, so that it is the same as what comes through the control socket.
        return _read_view(msgspec.json.encode(key.view(self._wall())))


Step = Callable[[dict[str, object]], "tuple[object, list[IssuedKey]]"]


def steps(desk: KeyDesk) -> dict[str, Step]:
    """The operations by the names that the control socket knows them by."""
    return {
        "keys.create": desk.create,
        "keys.revoke": desk.revoke,
        "keys.show": desk.show,
        "keys.list": desk.list,
    }


def operations(desk: KeyDesk, publish: Published) -> dict[str, Operation]:
    """The operations as a supervisor offers them; `publish` puts changes in force everywhere."""

    def offered(step: Step) -> Operation:
        async def operation(args: dict[str, object]) -> object:
            result, changed = _refusing(step, args)
            confirmed = not changed or await publish(changed)
            if step == desk.revoke and not confirmed:
                raise ControlError("not_confirmed", _NOT_CONFIRMED)
            return result

        return operation

    return {name: offered(step) for name, step in steps(desk).items()}


def administer(state: Path, op: str, args: dict[str, object]) -> object:
    """Do `op` through the daemon of `state`, or on the state itself; blocks.

    Raises ControlError if it is refused, StateError if the state cannot be used.
    """
    deadline = time.monotonic() + _HANDOVER_S
    while True:
        try:
            return control.ask(control_path(state), op, args)
        except NotRunning:
            try:
                return _directly(state, op, args)
            except StateBusy:
                # Somebody has just taken the state and does not answer yet, or no longer.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_HANDOVER_POLL_S)


def _directly(state: Path, op: str, args: dict[str, object]) -> object:
    with open_state(state) as opened:
        book = KeyBook(opened.store, KeyDigest(opened.digest_key))
        desk = KeyDesk(book, time.time)  # noqa: TID251 - keys are dated by the calendar
        return _refusing(steps(desk)[op], args)[0]


def _refusing(step: Step, args: dict[str, object]) -> "tuple[object, list[IssuedKey]]":
    """Run `step`; what it cannot do becomes a ControlError."""
    try:
        return step(args)
    except UnknownKey as error:
        raise ControlError("unknown_key", str(error)) from error
    except (msgspec.ValidationError, ValueError) as error:
        raise ControlError("invalid_request", str(error)) from error
    except StoreError as error:
        raise ControlError("store_error", str(error)) from error


def _id(args: dict[str, object]) -> str:
    return msgspec.convert(args, _Which).id
