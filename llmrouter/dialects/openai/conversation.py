"""What tells one conversation from another, so that its turns can go where its prompt is cached.

A caller may name it. Otherwise it is how the conversation began: each turn sends again all that was
said, so everything up to the first words of the user is in every one of them.
"""

from typing import Annotated

import msgspec

from llmrouter.contracts.call import Call, Operation
from llmrouter.dialects.openai import lenient

PROMPT_BYTES = 256
"""Of a bare prompt: what is continued keeps its beginning."""

_ABSENT = b"null"
_USER = "user"

_Name = Annotated[str, msgspec.Meta(min_length=1)]


class _Named(msgspec.Struct):
    id: _Name


class _Said(msgspec.Struct):
    """A message; what else it has, such as an id, a later turn may write differently."""

    role: str = ""
    content: msgspec.Raw = msgspec.Raw(_ABSENT)


_key: msgspec.json.Decoder[str] = msgspec.json.Decoder(_Name)
_conversation: msgspec.json.Decoder[str | _Named] = msgspec.json.Decoder(_Name | _Named)
_messages = msgspec.json.Decoder(list[_Said])


def conversation(call: Call) -> bytes:
    """Name the conversation that a call belongs to; b"" where nothing tells.

    Nothing does where `previous_response_id` stands for what was said before: the first words here
    are not the first of the conversation, and that id is another in each turn.
    """
    if (key := lenient.decode(_key, _member(call, "prompt_cache_key"))) is not None:
        return key.encode()
    match call.operation:
        case Operation.CHAT:
            return _beginning(_member(call, "messages"), _ABSENT)
        case Operation.COMPLETION if "prompt" in call.members:
            return _member(call, "prompt")[:PROMPT_BYTES]
        case Operation.RESPONSE:
            return _of_response(call)
        case _:
            return b""


def _of_response(call: Call) -> bytes:
    named = lenient.decode(_conversation, _member(call, "conversation"))
    if named is not None:
        return (named.id if isinstance(named, _Named) else named).encode()
    if _member(call, "previous_response_id") != _ABSENT:
        return b""
    return _beginning(_member(call, "input"), _member(call, "instructions"))


def _member(call: Call, name: str) -> bytes:
    return bytes(call.members.get(name, _ABSENT))


def _beginning(messages: bytes, instructions: bytes) -> bytes:
    """All that was said up to the first words of the user; b"" where there are none."""
    if messages.startswith(b'"'):  # short for one message of the user
        return _written([_Said(_USER, msgspec.Raw(messages))], instructions)
    said = lenient.decode(_messages, messages) or []
    first = next((at for at, message in enumerate(said) if message.role == _USER), None)
    return b"" if first is None else _written(said[: first + 1], instructions)


def _written(said: list[_Said], instructions: bytes) -> bytes:
    messages = (b"%b\0%b" % (one.role.encode(), bytes(one.content)) for one in said)
    return b"\0".join((instructions, *messages))
