"""Calls out of request bodies, and bodies for upstreams.

A body is decoded one level deep: names, and values that stay bytes. Everything not changed keeps
its bytes. Refused is what two readers may read differently, because then what was authorised would
not be what the upstream does: a name that occurs twice (RFC 8259, 4), a name that differs from one
that we go by only in case (many readers, Go's among them, match names without regard to case), and
bytes that are not UTF-8 (a lax reader takes the quote behind half a character for part of it).
"""

import functools
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from llmrouter.contracts.call import Call, Operation
from llmrouter.dialects.openai import output
from llmrouter.errors import InvalidJson, InvalidRequest, UnsupportedParameter

MODEL_CHARS_MAX: Final = 256
MEMBERS_MAX: Final = 1_000  # each is looked at in turn; the API has about 40
WRITTEN_BYTES_MAX: Final = 65_536
"""Of a body that is written anew, to see whether nothing else stands in it."""
SOUND_MAX: Final = 1_024
"""So many models, and sets of members, are remembered as sound: callers choose their names."""
SOUND_NAMES_MAX: Final = 64
SOUND_CHARS_MAX: Final = 1_024
"""More members, or such whose names are longer together, are not remembered."""
_STREAMED_USAGE_OPTION: Final = {output.CHAT, output.COMPLETION}
"""Where a stream tells its usage only if `stream_options.include_usage` asks for it."""
_SENSITIVE: Final = frozenset({"model", "stream", "stream_options", "background"}) | output.MEMBERS
"""The members that decide what is served, counted or charged."""
_SENSITIVE_OPTIONS: Final = frozenset({"include_usage"})
_DOT_ABOVE: Final = "\u0307"  # what is left over of a capital I with a dot
_SHOWN_CHARS_MAX: Final = 100

_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text: Final = msgspec.json.Decoder(str)
_encode: Final = msgspec.json.Encoder().encode
_TRUE: Final = msgspec.Raw(b"true")
_NULL: Final = msgspec.Raw(b"null")
_MEMBER: Final = re.compile(
    rb'[ \t\r\n]*[{,][ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*'
)
_END: Final = re.compile(rb"[ \t\r\n]*}[ \t\r\n]*")
_USUAL_OPTIONS: Final = {b'{"include_usage":true}', b'{"include_usage": true}'}
"""The options of a stream, as nearly all write them that ask for its usage."""
_BOOLEANS: Final = {b"true": True, b"false": False, b"null": False}
_sound_names: Final[set[tuple[str, ...]]] = set()


def read_call(operation: Operation, body: bytes) -> Call:
    """Read what routing and metering need.

    Raises InvalidJson, InvalidRequest, UnsupportedParameter.
    """
    members = _decode_members(body)
    _check_names(members)
    spans = None if _is_plain(body, members) else _spans(body, members)
    if operation is output.RESPONSE:
        _check_foreground(members)
    stream = operation is not output.EMBEDDING and _flag(members, "stream")
    options = bytes(members.get("stream_options", _NULL)) if stream else b"null"
    raw_model = members.get("model")
    if raw_model is None:
        raise InvalidRequest("the member 'model' is missing; name a model", param="model")
    model = _model(bytes(raw_model))
    choices = output.choices(operation, members)
    return Call(
        operation=operation,
        model=model,
        stream=stream,
        wants_usage=options in _USUAL_OPTIONS or _wants_usage(options),
        output_max=output.most_tokens(operation, members, choices),
        choices=choices,
        body=body,
        members=members,
        spans=spans,
    )


def upstream_body(call: Call, model: str) -> bytes:
    """The caller's body with the deployment's model and, for streams, the usage option."""
    changes: dict[str, msgspec.Raw] = {}
    if model != call.model:
        changes["model"] = msgspec.Raw(_encode(model))
    if call.stream and not call.wants_usage and call.operation in _STREAMED_USAGE_OPTION:
        changes["stream_options"] = _with_usage(call.members.get("stream_options", _NULL))
    if not changes:
        return call.body
    if call.spans is None:
        space_behind = call.body[len(call.body.rstrip()) :]
        return _encode({**call.members, **changes}) + space_behind
    return _splice(call.body, call.spans, changes)


def _decode_members(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        if not body.isascii():
            body.decode()  # the decoder below does not look into the values
        members = _members.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest("the body is not a JSON object; send an object") from error
    except msgspec.DecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidJson(f"the body is not UTF-8 (byte {error.start}); encode it so") from error
    except RecursionError as error:
        raise InvalidJson("the body is not JSON that can be read: nested too deeply") from error
    if len(members) > MEMBERS_MAX:
        raise InvalidRequest(f"the body has {len(members)} members; at most {MEMBERS_MAX} can be")
    return members


def _is_plain(body: bytes, members: Mapping[str, msgspec.Raw]) -> bool:
    """Whether nothing stands in a body but these members, as we write them."""
    if len(body) > WRITTEN_BYTES_MAX:
        return False  # to write it costs more than to look for them
    behind = body.removeprefix(_encode(members))
    return not behind or behind.isspace()


def _check_names(members: Mapping[str, msgspec.Raw]) -> None:
    """Refuse a body with a name that readers may take for another; few bodies differ in names."""
    names = tuple(members)
    if names in _sound_names:
        return
    _check_case(members, _SENSITIVE)
    if len(names) <= SOUND_NAMES_MAX and sum(map(len, names)) <= SOUND_CHARS_MAX:
        if len(_sound_names) >= SOUND_MAX:
            _sound_names.clear()
        _sound_names.add(names)


def _check_case(members: Mapping[str, msgspec.Raw], sensitive: frozenset[str]) -> None:
    """Refuse a name that some readers take for one of `sensitive`, and others do not."""
    names = "".join(members)
    if names.isascii() and names.islower():
        return  # nearly every body
    for name in members:
        if name not in sensitive and (meant := _folded(name)) in sensitive:
            reason = f"the member {name!a} differs from '{meant}' only in case; send '{meant}'"
            raise InvalidRequest(reason, param=name)


def _folded(name: str) -> str:
    """Without case, as the laxest reader sees it: a long s is an s, a Kelvin sign a k."""
    return name.upper().casefold().replace(_DOT_ABOVE, "")


@functools.lru_cache(maxsize=SOUND_MAX)
def _model(raw: bytes) -> str:
    """The name that the member `model` is; a name that is refused is not remembered."""
    try:
        model = _text.decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidRequest("the member 'model' is not a string", param="model") from error
    if not 0 < len(model) <= MODEL_CHARS_MAX:
        reason = f"the model's name has {len(model)} characters; 1 to {MODEL_CHARS_MAX} can be"
        raise InvalidRequest(reason, param="model")
    if not (model.isascii() and model.isprintable()) or model != model.strip():
        # It goes into a response header and the log.
        reason = f"the model's name {model[:_SHOWN_CHARS_MAX]!a} is not one that can be"
        rule = "use printable ASCII without a space at either end"
        raise InvalidRequest(f"{reason}; {rule}", param="model")
    return model


def _flag(members: Mapping[str, msgspec.Raw], name: str) -> bool:
    raw = members.get(name)
    if raw is None:
        return False
    value = _BOOLEANS.get(bytes(raw))
    if value is None:
        raise InvalidRequest(f"the member '{name}' is neither true nor false", param=name)
    return value


def _check_foreground(members: Mapping[str, msgspec.Raw]) -> None:
    """What goes on behind its answer says nowhere what it used, and cannot be fetched here."""
    if _flag(members, "background"):
        reason = "the member 'background' is true, but responses cannot be fetched here later"
        raise UnsupportedParameter(f"{reason}; leave it out, and stream", param="background")


def _wants_usage(raw: bytes) -> bool:
    if raw == b"null":
        return False
    try:
        options = _members.decode(raw)
    except msgspec.DecodeError as error:
        reason = "the member 'stream_options' is not an object; send an object"
        raise InvalidRequest(reason, param="stream_options") from error
    if len(options) > MEMBERS_MAX:
        reason = f"'stream_options' has {len(options)} members; at most {MEMBERS_MAX} can be"
        raise InvalidRequest(reason, param="stream_options")
    _check_case(options, _SENSITIVE_OPTIONS)
    if _encode(options) != raw:
        _spans(raw, options)
    return _flag(options, "include_usage")


def _with_usage(options: msgspec.Raw) -> msgspec.Raw:
    members = {} if bytes(options) == b"null" else _members.decode(options)
    return msgspec.Raw(_encode({**members, "include_usage": _TRUE}))


def _spans(body: bytes, members: Mapping[str, msgspec.Raw]) -> dict[str, tuple[int, int]]:
    """Find every member's value in `body`, in order; only a name that occurs twice prevents it."""
    spans = {}
    at = 0
    for name, raw in members.items():
        match = _MEMBER.match(body, at)
        value = memoryview(raw)  # where it stands in `body` itself
        if (
            match is None
            or _text.decode(match[1]) != name
            or not body.startswith(value, match.end())
        ):
            raise _occurs_twice(match)
        at = match.end() + value.nbytes
        spans[name] = (match.end(), at)
    if _END.fullmatch(body, at) is None:
        raise _occurs_twice(_MEMBER.match(body, at))
    return spans


def _occurs_twice(match: re.Match[bytes] | None) -> InvalidRequest:
    name = repr(_text.decode(match[1])[:_SHOWN_CHARS_MAX]) if match else "a member"
    return InvalidRequest(f"{name} or a member beside it occurs twice in the body; send it once")


def _splice(
    body: bytes, spans: Mapping[str, tuple[int, int]], changes: Mapping[str, msgspec.Raw]
) -> bytes:
    pieces = []
    at = 0
    for name, (start, end) in spans.items():
        if name in changes:
            pieces += [body[at:start], bytes(changes[name])]
            at = end
    close = body.rindex(b"}")
    pieces.append(body[at:close])
    pieces += [
        b', "%b": %b' % (name.encode(), changes[name]) for name in changes.keys() - spans.keys()
    ]
    pieces.append(body[close:])
    return b"".join(pieces)
