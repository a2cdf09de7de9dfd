import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.dialects.openai import lenient

DEEP = b"[" * 200_000 + b"]" * 200_000


class Shape(msgspec.Struct):
    count: int = 0


shape = msgspec.json.Decoder(Shape)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b" [null, true]\r\n", [None, True]),
        (b'{"a":NaN,"b":-Infinity}', {"a": None, "b": None}),
        (b'"\\ud83d"', "\ud83d"),
        (b'"\xff"', "\ufffd"),
        (b"\xef\xbb\xbf{}", {}),
        (b"1e999", float("inf")),
    ],
)
def test_what_readers_let_pass_is_read(text: bytes, value: object) -> None:
    assert lenient.read(text) == value
    assert lenient.is_whole(text)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":1}}', b"{'a':1}", b"nan", b'"\x01"', DEEP[:9]])
def test_what_is_not_whole_is_not_read(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|Extra|Invalid|Unterminated"):
        lenient.read(text)
    assert not lenient.is_whole(text)
    assert lenient.decode(shape, text) is None


def test_what_is_nested_too_deeply_for_any_reader_is_not_read() -> None:
    with pytest.raises(ValueError, match="too deeply"):
        lenient.read(DEEP)
    assert not lenient.is_whole(DEEP)
    assert lenient.decode(shape, DEEP) is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"count":7}',
        b'{"count":7,"x":NaN}',
        b'{"x":"\\ud83d","count":7}',
        b'{"x":"\xff","count":7,"y":Infinity}',
        b'\xef\xbb\xbf{"count":7}',
    ],
)
def test_a_shape_is_found_beside_what_is_odd(text: bytes) -> None:
    assert lenient.decode(shape, text) == Shape(7)


@pytest.mark.parametrize("text", [b"[]", b'{"count":"7"}', b'{"x":NaN,"count":"7"}', b"NaN"])
def test_another_shape_is_none_of_ours(text: bytes) -> None:
    assert lenient.decode(shape, text) is None
    assert lenient.is_whole(text)


@given(st.binary(max_size=100))
def test_no_bytes_break_it(text: bytes) -> None:
    whole = lenient.is_whole(text)

    assert whole or lenient.decode(shape, text) is None
