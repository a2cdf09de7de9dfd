import pytest

from llmrouter.http1.request import SMALL_PIECE_BYTES, Buffered, Request


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/v1/models", b"/v1/models"),
        (b"/v1/messages?beta=true", b"/v1/messages"),
        (b"/v1?a=b?c=d", b"/v1"),
        (b"/?", b"/"),
        (b"http://gw:4000/v1?a=b", b"/v1"),
        (b"https://gw/v1/", b"/v1/"),
        (b"http://gw", b"/"),
        (b"http://gw?a=/b", b"/"),
        (b"/proxy?url=http://other/path", b"/proxy"),
        (b"/http://other/path", b"/http://other/path"),
        (b"*", b"*"),
        (b"gw:443", b"gw:443"),
        (b"", b""),
    ],
)
def test_the_path_is_the_target_without_origin_and_query(target: bytes, path: bytes) -> None:
    assert Request(target).path == path


@pytest.mark.parametrize(
    ("pieces", "body"),
    [([], b""), ([b"abc"], b"abc"), ([b"a", b"", b"bc"], b"abc")],
)
def test_the_body_is_its_pieces_joined_however_often_it_is_read(
    pieces: list[bytes], body: bytes
) -> None:
    request = Request(b"/")
    request.pieces = [*pieces]
    assert request.body == body
    assert request.body == body


def test_a_body_in_one_piece_is_not_copied() -> None:
    request = Request(b"/")
    piece = b"x" * 1000
    request.pieces.append(piece)
    assert request.body is piece


def test_a_body_that_was_dropped_is_empty_and_given_back_once() -> None:
    buffered = Buffered(100)
    buffered.bytes = 10
    request = Request(b"/")
    request.pieces.append(b"abc")
    request.body_bytes, request.buffered = 3, buffered
    request.drop_body()
    request.drop_body()
    assert request.body == b""
    assert repr(buffered) == "<Buffered 7 of 100>"


def test_the_repr_shows_how_far_it_has_come() -> None:
    request = Request(b"/v1")
    request.method = b"POST"
    assert repr(request) == "<Request POST b'/v1' partial body=0>"
    request.complete, request.body_bytes = True, 3
    assert repr(request) == "<Request POST b'/v1' complete body=3>"


def test_many_tiny_pieces_are_held_in_few_objects() -> None:
    request = Request(b"/")
    for _ in range(100_000):
        request.hold(b"ab")
    assert len(request.pieces) <= 2
    assert request.body == b"ab" * 100_000
    assert isinstance(request.body, bytes)


def test_pieces_of_every_size_are_held_in_their_order() -> None:
    sizes = [1, 2, SMALL_PIECE_BYTES, 3, 4, SMALL_PIECE_BYTES - 1, SMALL_PIECE_BYTES + 1, 5]
    pieces = [b"%c" % (65 + at) * size for at, size in enumerate(sizes)]
    request = Request(b"/")
    for piece in pieces:
        request.hold(piece)
    assert request.body == b"".join(pieces)
