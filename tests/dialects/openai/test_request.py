import random
from json import JSONDecoder, JSONEncoder

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.contracts.call import Call, Operation
from llmrouter.dialects.openai import request
from llmrouter.dialects.openai.request import MEMBERS_MAX, read_call, upstream_body
from llmrouter.errors import InvalidJson, InvalidRequest, UnsupportedParameter
from tests.dialects.openai import written
from tests.dialects.openai.written import WHITE, Member

CHAT, COMPLETION = Operation.CHAT, Operation.COMPLETION
EMBEDDING, RESPONSE = Operation.EMBEDDING, Operation.RESPONSE
SENSITIVE = [
    *("model", "stream", "stream_options", "n"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"),
    *("best_of", "prompt"),
]

parse = JSONDecoder().decode
sources = st.integers(0, 2**32).map(random.Random)


def member(name: str, value: str) -> Member:
    return Member(f'"{name}"'.encode(), value.encode())


@st.composite
def bodies(draw: st.DrawFn, *, stream: bool) -> tuple[list[Member], bytes]:
    """The members of a call with much besides, in any order, and the white space around it."""
    source = draw(sources)
    known: dict[str, object] = {"model": "asked-for", "stream": stream}
    others = draw(st.dictionaries(written.texts, written.values, max_size=5))
    others = {name: found for name, found in others.items() if name.lower() not in SENSITIVE}
    items = list({**others, **known}.items())
    source.shuffle(items)
    return [written.member(*item, source) for item in items], source.choice(WHITE)


def replaced(members: list[Member], name: str, value: bytes) -> list[Member]:
    return [
        one._replace(value=value) if parse(one.name.decode()) == name else one for one in members
    ]


def asked(body: bytes, operation: Operation = CHAT) -> Call:
    return read_call(operation, body)


# ---- what is changed, and what is not ------------------------------------------------------------


@given(bodies(stream=False))
def test_only_the_bytes_of_the_model_change(written_body: tuple[list[Member], bytes]) -> None:
    members, around = written_body
    call = asked(written.body(members, around=around))

    assert call.model == "asked-for"
    assert upstream_body(call, "asked-for") is call.body
    assert upstream_body(call, 'an"other') == written.body(
        replaced(members, "model", b'"an\\"other"'), around=around
    )


@given(bodies(stream=True), sources)
def test_a_stream_is_asked_for_its_usage_and_nothing_else_changes(
    written_body: tuple[list[Member], bytes], source: random.Random
) -> None:
    """FR-004: usage is known also where the caller does not care."""
    members, around = written_body
    body = written.body(members, around=around)
    sent = upstream_body(asked(body), "another")

    kept = written.body(replaced(members, "model", b'"another"'), around=around)
    end = kept.rindex(b"}")
    assert sent.startswith(kept[:end])
    assert sent.endswith(kept[end:])
    option = {"stream_options": {"include_usage": True}}
    assert parse(sent.decode()) == {**parse(body.decode()), "model": "another", **option}


@given(bodies(stream=True), st.sampled_from([None, False]), sources)
def test_an_option_that_declines_usage_is_turned_in_its_place(
    written_body: tuple[list[Member], bytes], declined: bool | None, source: random.Random
) -> None:
    members, around = written_body
    options = {"include_obfuscation": False, "include_usage": declined}
    members.insert(1, written.member("stream_options", options, source))

    call = asked(written.body(members, around=around))

    assert not call.wants_usage
    turned = b'{"include_obfuscation":false,"include_usage":true}'
    assert upstream_body(call, "asked-for") == written.body(
        replaced(members, "stream_options", turned), around=around
    )


@given(bodies(stream=True), sources)
def test_a_caller_who_asks_for_usage_is_passed_on_untouched(
    written_body: tuple[list[Member], bytes], source: random.Random
) -> None:
    members, around = written_body
    options = {"include_usage": True, "another": [1, {"include_usage": False}]}
    members.append(written.member("stream_options", options, source))

    call = asked(written.body(members, around=around))

    assert call.wants_usage
    assert upstream_body(call, "asked-for") is call.body


@pytest.mark.parametrize(
    ("operation", "body", "sent"),
    [
        (CHAT, b'{"model":"a","n":2}', b'{"model":"b","n":2}'),
        (CHAT, b'{"n": 2, "model": "a"}\n', b'{"n": 2, "model": "b"}\n'),
        (CHAT, b'{"model":"a","stream":null}', b'{"model":"b","stream":null}'),
        (
            COMPLETION,
            b'{"model":"a","stream":true}',
            b'{"model":"b","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            CHAT,
            b'{ "model": "a", "stream": true }',
            b'{ "model": "b", "stream": true , "stream_options": {"include_usage":true}}',
        ),
        (
            CHAT,
            b'{"model":"a","stream":true,"stream_options":null}',
            b'{"model":"b","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            CHAT,
            b'{"model":"a","stream_options":{"include_usage":false}}',
            b'{"model":"b","stream_options":{"include_usage":false}}',
        ),
        (RESPONSE, b'{"model":"a","stream":true}', b'{"model":"b","stream":true}'),
        (EMBEDDING, b'{"model":"a","stream":true}', b'{"model":"b","stream":true}'),
        (
            CHAT,
            b'{"x":[1e999,-0,1E+2,0.10,123456789012345678901234567890],"model":"a"}',
            b'{"x":[1e999,-0,1E+2,0.10,123456789012345678901234567890],"model":"b"}',
        ),
        (CHAT, b'{"\\u006dodel":"a","\\/":"\\/"}', b'{"\\u006dodel":"b","\\/":"\\/"}'),
        (CHAT, b'{"model":"\\u0061"}', b'{"model":"b"}'),
    ],
)
def test_what_goes_upstream(operation: Operation, body: bytes, sent: bytes) -> None:
    call = asked(body, operation)

    assert call.model == "a"
    assert upstream_body(call, "b") == sent


def test_a_response_is_not_left_to_the_background() -> None:
    """FR-003: what it uses then is told to nobody here."""
    with pytest.raises(UnsupportedParameter, match="cannot be fetched here later") as caught:
        read_call(Operation.RESPONSE, b'{"model":"m","input":"x","background":true}')
    assert caught.value.param == "background"
    with pytest.raises(InvalidRequest, match="only in case"):
        read_call(Operation.RESPONSE, b'{"model":"m","input":"x","Background":true}')
    for body in (b'{"model":"m","background":false}', b'{"model":"m","background":null}'):
        assert read_call(Operation.RESPONSE, body).model == "m"


def test_embeddings_are_never_streamed() -> None:
    """So their answer is read as a plain one, whatever the caller wrote."""
    call = asked(b'{"model":"a","stream":true,"stream_options":1}', EMBEDDING)

    assert (call.stream, call.wants_usage) == (False, False)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_large_body_is_changed_like_a_small_one(separators: tuple[str, str]) -> None:
    """FR-008: four megabytes are an ordinary body of an agent with pictures."""
    content = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "é/" * 700_000}}],
    }
    document = {"messages": [content] * 3, "model": "a", "tools": list(range(1000))}
    body = JSONEncoder(separators=separators, ensure_ascii=False).encode(document).encode()
    assert len(body) > 4_000_000

    assert upstream_body(asked(body), "b") == body.replace(b'"a"', b'"b"')


# ---- what two readers may read differently -------------------------------------------------------


@given(bodies(stream=True), sources, written.values)
def test_a_name_that_occurs_twice_is_refused_in_every_disguise(
    written_body: tuple[list[Member], bytes], source: random.Random, value: object
) -> None:
    """FR-002: what was authorised is what the upstream does (RFC 8259, 4)."""
    members, around = written_body
    name = parse(source.choice(members).name.decode())
    twin = written.member(name, value, source)
    members.insert(source.randint(0, len(members)), twin)

    with pytest.raises(InvalidRequest):
        asked(written.body(members, around=around))


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"mod\\u0065l":"a","model":"a"}',
        b'{"model":"a" , "\\u006Dodel" : "b"}',
        b'{"model":"a","max_tokens":1,"max_tokens":100000}',
        b'{"model":"a","max_tokens":100000,"max_tokens":1}',
        b'{"model":"a","max_tokens":12,"max_tokens":1}',
        b'{"max_tokens":1,"model":"a","max_tokens":1}',
        b'{"model":"a","stream":false,"stream":true}',
        b'{"model":"a","x":{},"x":{}}',
        b'{"model":"a","":1,"":1}',
        b'{"model":"a","\xc3\xa9":1,"\\u00e9":1}',
        b'{"model":"a","\\ud83d\\ude00":1,"\xf0\x9f\x98\x80":1}',
        b'{"x":"}","model":"a","x":"{\\"model\\":\\"b\\"}"}',
        # the second value of x is as long as all that stands between the first and its own `,"n":`
        b'{"model":"m","x":0,"n":12,"x":{"y":1      ,"n":7}}',
    ],
)
def test_names_that_occur_twice(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="occurs twice in the body; send it once"):
        asked(body)


@pytest.mark.parametrize(
    "options",
    [
        '{"include_usage":true,"include_usage":false}',
        '{"include_usage":false,"include_usage":true}',
        '{"include_usage":true,"include\\u005fusage":true}',
        '{"include_usage":true,"Include_Usage":false}',
        '{"include_usage":true,"\\u0130nclude_usage":false}',
    ],
)
def test_usage_cannot_be_asked_for_and_declined(options: str) -> None:
    """FR-004: an upstream that read it the other way would tell no usage."""
    with pytest.raises(InvalidRequest, match=r"occurs twice|only in case"):
        asked(f'{{"model":"a","stream":true,"stream_options":{options}}}'.encode())


def disguises(name: str) -> list[str]:
    """What readers of one kind or another take for `name`: Go's, Java's and .NET's among them."""
    found = {name.upper(), name.capitalize(), name[:-1] + name[-1].upper(), name.title()}
    for plain, other in (("s", "\u017f"), ("k", "\u212a"), ("i", "\u0131"), ("i", "\u0130")):
        if plain in name:
            found.add(name.replace(plain, other, 1))
    return sorted(found)


@pytest.mark.parametrize(
    ("name", "disguise"), [(name, other) for name in SENSITIVE for other in disguises(name)]
)
@pytest.mark.parametrize("beside", [True, False], ids=["beside", "alone"])
def test_a_name_that_differs_only_in_case_is_refused(
    name: str, disguise: str, beside: bool
) -> None:
    """FR-002: servers that match names without regard to case would take the last of them."""
    plain = {"model": "cheap", name: "x"} if beside else {"model": "cheap"}
    body = JSONEncoder().encode({**plain, disguise: "expensive"}).encode()

    with pytest.raises(InvalidRequest, match=f"only in case; send '{name}'") as caught:
        asked(body)

    assert caught.value.param == disguise
    assert caught.value.message.isascii()


@pytest.mark.parametrize(
    "name",
    [
        "Metadata",
        "X",
        "maxTokens",
        "streamOptions",
        "MODELS",
        "N2",
        "\u017f",
        "模型",
        "model ",
        "1",
    ],
)
def test_other_names_are_nobody_s_business(name: str) -> None:
    body = JSONEncoder().encode({"model": "a", name: 1}).encode()

    assert upstream_body(asked(body), "a") == body
    assert parse(upstream_body(asked(body), "b").decode()) == {"model": "b", name: 1}


# ---- what is no call -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"}", b"model", b'{"model":"a"', b'{"model":"a"}}', b'{"model":"a"} x'),
        *(b'{"model":"a",}', b"{'model':'a'}", b'{"model":"a"}{"model":"b"}', b'{"model" "a"}'),
        b'\xef\xbb\xbf{"model":"a"}',
        '{"model":"a"}'.encode("utf-16"),
        b'{"model":"a"}\x00',
        b'\x00{"model":"a"}',
        b'{"model":"a\x00"}',
        b'{"model":"a\n"}',
        b'{"mo\x00del":"a"}',
        b'{"model":\x0c"a"}',
        b'{"model":"a","x":NaN}',
        b'{"model":"a","x":Infinity}',
        b'{"model":"a","x":01}',
        b'{"model":"a","x":.5}',
        b'{"model":"a","x":"\\x41"}',
        b'{"model":"a","x":"\\ud800"}',
        b'{"model":"a","x":"\\ud800\\u0041"}',
        b'{"model":"a","\\udfff":1}',
        b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"a","x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001,
        b"[" * 4_000_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """FR-007: one class for each answer, and no fault of ours whatever was sent."""
    with pytest.raises((InvalidJson, InvalidRequest), match="the body is not"):
        asked(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"\xff"}',
        b'{"model":"a","x":"\xff"}',
        b'{"model":"a","\xff":1}',
        b'{"model":"a","x":"\xed\xa0\x80"}',
        b'{"model":"a","x":"\xc0\xa2"}',
        b'{"model":"a","x":"\xe2","max_tokens":1}',
        '{"model":"a","x":"é"}'.encode("latin-1"),
    ],
)
def test_what_is_not_utf_8_is_refused(body: bytes) -> None:
    """A lax reader takes the quote behind half a character for a part of it, and reads on."""
    with pytest.raises(InvalidJson, match=r"not UTF-8 \(byte \d+\)"):
        asked(body)


@pytest.mark.parametrize("body", [b"[]", b'[{"model":"a"}]', b"null", b"1", b'"model"', b"true"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a JSON object; send an object"):
        asked(body)


@pytest.mark.parametrize(
    ("members", "param", "said"),
    [
        ("", "model", "'model' is missing"),
        ('"model":null', "model", "not a string"),
        ('"model":1', "model", "not a string"),
        ('"model":["a"]', "model", "not a string"),
        ('"model":{"a":1}', "model", "not a string"),
        ('"model":""', "model", "has 0 characters; 1 to 256 can be"),
        (f'"model":"{"m" * 257}"', "model", "has 257 characters; 1 to 256 can be"),
        ('"model":"a","stream":1', "stream", "neither true nor false"),
        ('"model":"a","stream":"true"', "stream", "neither true nor false"),
        ('"model":"a","stream":[true]', "stream", "neither true nor false"),
        ('"model":"a","stream":true,"stream_options":1', "stream_options", "not an object"),
        ('"model":"a","stream":true,"stream_options":[]', "stream_options", "not an object"),
        (
            '"model":"a","stream":true,"stream_options":{"include_usage":"yes"}',
            "include_usage",
            "neither true nor false",
        ),
    ],
)
def test_members_of_a_wrong_type_are_refused(members: str, param: str, said: str) -> None:
    """FR-007: the answer names the member."""
    with pytest.raises(InvalidRequest, match=said) as caught:
        asked(f"{{{members}}}".encode())

    assert caught.value.param == param


@pytest.mark.parametrize(
    "name",
    [
        "a\r\nx: y",
        "a\n",
        "\ta",
        "a\x00b",
        "a\x1bb",
        "a\x7f",
        " a",
        "a ",
        "é",
        "gpt\u200b",
        "模",
        "\u00a0a",
    ],
    ids=ascii,
)
def test_a_name_that_would_not_fit_a_header_is_refused(name: str) -> None:
    """It goes into `x-llmrouter-deployment` and the log."""
    with pytest.raises(InvalidRequest, match="use printable ASCII without a space") as caught:
        asked(JSONEncoder().encode({"model": name}).encode())

    assert caught.value.param == "model"
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "name", ["a", "m" * 256, "meta-llama/Llama-3:70b", "@cf/x~1", "two words", "!", 'a"b', "a\\b"]
)
def test_other_names_can_be_asked_for(name: str) -> None:
    assert asked(JSONEncoder().encode({"model": name}).encode()).model == name


def test_a_body_of_too_many_members_is_refused() -> None:
    """FR-008: every loop has a limit."""
    members = [member("model", '"a"'), *(member(f"x{at}", "1") for at in range(MEMBERS_MAX))]

    with pytest.raises(InvalidRequest, match=r"has 1001 members; at most 1000 can be"):
        asked(written.body(members))

    assert asked(written.body(members[:-1])).model == "a"


def test_options_of_too_many_members_are_refused() -> None:
    """FR-008: every loop has a limit; the space makes each member's place be looked for."""

    def options(count: int) -> bytes:
        members = ",".join(f'"a{at}": 1' for at in range(count))
        return f'{{"model":"a","stream":true,"stream_options":{{{members}}}}}'.encode()

    with pytest.raises(InvalidRequest, match=r"has 1001 members; at most 1000 can be") as caught:
        asked(options(MEMBERS_MAX + 1))

    assert caught.value.param == "stream_options"
    assert asked(options(MEMBERS_MAX)).model == "a"


def test_what_is_remembered_of_members_is_bounded() -> None:
    """Callers choose their names."""

    def remembered(*names: str) -> int:
        body = {"model": "m", **dict.fromkeys(names, 1)}
        read_call(CHAT, JSONEncoder().encode(body).encode())
        return len(request._sound_names)

    request._sound_names.clear()
    assert remembered("temperature") == 1
    assert remembered(*map(str, range(request.SOUND_NAMES_MAX))) == 1
    assert remembered("x" * request.SOUND_CHARS_MAX) == 1
    assert max(remembered(f"x{number}") for number in range(3_000)) == request.SOUND_MAX
