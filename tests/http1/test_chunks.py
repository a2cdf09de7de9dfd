import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.http1.chunks import framed, only_chunk

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
SIZES = [1, 2, 9, 10, 15, 16, 17, 254, 255, 256, 257, 2046, 2047, 2048, 2049, 4095, 4096, 65_536]


class Read:
    """What a parser that is not ours reads in a chunked body."""

    def __init__(self, body: bytes) -> None:
        self.pieces: list[bytes] = []
        self.between = False
        """The last thing read was the end of a chunk."""
        self.sound = True
        try:
            httptools.HttpResponseParser(self).feed_data(HEAD + body)
        except httptools.HttpParserError:
            self.sound = False

    def on_chunk_header(self) -> None:
        self.between = False

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_chunk_complete(self) -> None:
        self.between = True


@pytest.mark.parametrize("size", SIZES)
def test_a_chunk_of_any_size_is_read_as_it_was_written(size: int) -> None:
    data = b"\r\n" * (size // 2) + b"x" * (size % 2)
    read = Read(framed(data))

    assert b"".join(read.pieces) == data
    assert read.between
    assert only_chunk(framed(data)) == (data if size < 2048 else b"")


@pytest.mark.parametrize(
    "read",
    [
        b"",
        b"\r\n",
        b"0\r\n\r\n",
        b"1\r\n\r\n",
        b"5\r\nhell\r\n",
        b"5\r\nhelloo\r\n",
        b"f\r\n" + b"x" * 16 + b"\r\n",
        b"0f\r\n" + b"x" * 15 + b"\r\n",
        b"F\r\n" + b"x" * 15 + b"\r\n",
        b"ff\r\n" + b"x" * 256 + b"\r\n",
        b"10\r\n" + b"x" * 15 + b"\r\n",
        b"5;x\r\nhello\r\n",
        b"5\r\nhello",
        b"5\r\nhello\r",
        b"5\r\nhello\n\n",
        b"5\n\nhello\r\n",
        b"5\r\nhello\r\n5",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"2\r\nhi\r\n3\r\nyou\r\n",
        b"+5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
    ],
)
def test_all_else_is_left_to_the_parser(read: bytes) -> None:
    assert only_chunk(read) == b""


@st.composite
def _reads(draw: st.DrawFn) -> bytes:
    """A chunk, spoiled or not."""
    data = draw(
        st.binary(min_size=1, max_size=300) | st.sampled_from([b"7\r\n7\r\n7", b"\r\n" * 9])
    )
    text = bytearray(framed(data))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b"0", b"1", b"f", b"\r", b"\n", b"\r\n", b";", b" "])
        )
    return bytes(text)


@given(_reads())
def test_what_is_taken_for_one_chunk_is_one_to_another_parser(read: bytes) -> None:
    if data := only_chunk(read):
        seen = Read(read)
        assert (seen.pieces, seen.between, seen.sound) == ([data], True, True)
