import itertools
import random
import traceback
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.http1.errors import MessageError
from llmrouter.http1.reader import NEW_HEADS_MAX, RequestReader
from llmrouter.http1.request import Buffered, Request
from tests.http1.corpus import BAD, BODY_BYTES, GOOD, HEAD_BYTES, MESSAGES, Limits, Message
from tests.http1.mutation import mutants

FUZZ_SHORT = 5_000
FUZZ_FULL = 200_000


class Heard:
    """A receiver that keeps what it hears."""

    def __init__(self, *, wants_body: bool = True) -> None:
        self.wants_body = wants_body
        self.heads: list[Request] = []
        self.requests: list[Request] = []

    def request_head(self, request: Request) -> None:
        request.wants_body = self.wants_body
        self.heads.append(request)

    def request_complete(self, request: Request) -> None:
        self.requests.append(request)


class Result:
    """What became of some bytes: requests, and the status of a refusal."""

    def __init__(self, pieces: Iterable[bytes], limits: type[Limits] = Limits) -> None:
        self.heard = Heard()
        self.reader = RequestReader(self.heard, limits, Buffered(1 << 30))
        self.status: int | None = None
        try:
            for piece in pieces:
                self.reader.feed(piece)
        except MessageError as error:
            self.status = error.status
        self.requests = self.heard.requests

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Result)
        return self.facts() == other.facts()

    def __repr__(self) -> str:
        return f"<Result {self.facts()}>"

    def facts(self) -> tuple[object, ...]:
        """Everything that must not depend on how the bytes were cut."""
        assert all(request.complete for request in self.requests)
        asked = [
            (r.method, r.target, r.path, r.headers, r.body, r.keep_alive, r.minor_version)
            for r in self.requests
        ]
        # What follows the last request of a connection is dropped, so nobody asks where it stands.
        middle = not self.reader.ended and self.reader.is_mid_request()
        return asked, self.status, self.reader.ended, self.status is None and middle


def bytewise(raw: bytes) -> Iterator[bytes]:
    return (raw[at : at + 1] for at in range(len(raw)))


def cut_at(raw: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


def randomly(raw: bytes, chance: random.Random) -> list[bytes]:
    return cut_at(raw, (chance.randint(0, len(raw)) for _ in range(chance.randint(1, 8))))


def check(message: Message, result: Result) -> None:
    assert result.status == message.status
    assert len(result.requests) == len(message.asked)
    for request, asked in zip(result.requests, message.asked, strict=True):
        assert (request.method, request.target) == (asked.method, asked.target)
        assert request.headers.items() >= asked.headers.items()
        assert request.body == asked.body
        assert request.keep_alive is asked.keep_alive
        assert request.complete
        assert b"authorization" not in request.headers or asked.headers


def test_the_corpus_is_large_enough_and_says_each_thing_once() -> None:
    assert len(GOOD) >= 40
    assert len(BAD) >= 40
    assert len({message.name for message in MESSAGES}) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_a_message_gives_what_it_must_however_it_is_cut(message: Message) -> None:
    check(message, Result([message.raw]))
    check(message, Result(bytewise(message.raw)))
    whole = Result([message.raw])
    chance = random.Random(message.name)
    for _ in range(20):
        assert Result(randomly(message.raw, chance)) == whole


@pytest.mark.parametrize("message", [m for m in MESSAGES if len(m.raw) < 400], ids=lambda m: m.name)
def test_a_message_cut_once_at_every_place_gives_the_same(message: Message) -> None:
    whole = Result([message.raw])
    for at in range(len(message.raw) + 1):
        assert Result([message.raw[:at], message.raw[at:]]) == whole


def fuzz(count: int) -> None:
    chance = random.Random(count)
    for raw in mutants(count, seed=count):
        whole = Result([raw])
        assert whole.status in (None, 400, 413, 431), raw
        for request in whole.requests:
            assert request.body_bytes == len(request.body) <= BODY_BYTES, raw
            assert b"\r" not in request.target, raw
            assert b"\n" not in request.target, raw
        assert Result(randomly(raw, chance)) == whole, raw


def test_five_thousand_mutated_requests_neither_fail_nor_depend_on_how_they_are_cut() -> None:
    fuzz(FUZZ_SHORT)


@pytest.mark.slow
def test_two_hundred_thousand_mutated_requests_do_no_harm() -> None:
    fuzz(FUZZ_FULL)


tokens = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(
    lambda text: b"x-" + text.encode()
)
values = st.binary(max_size=30).map(lambda raw: bytes(b for b in raw if 0x21 <= b < 0x7F))


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes, dict[bytes, bytes], bytes]:
    """A request's own bytes, then the target, headers and body that are in them."""
    target = b"/" + draw(st.text("abc/%20?=&", max_size=40)).encode()
    headers = draw(st.dictionaries(tokens, values, max_size=4))
    pieces = draw(st.lists(st.binary(min_size=1, max_size=200), max_size=4))
    body = b"".join(pieces)
    lines = b"".join(b"%b: %b\r\n" % field for field in headers.items())
    if draw(st.booleans()):
        framing = b"content-length: %d\r\n\r\n%b" % (len(body), body)
    else:
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        framing = b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return b"POST %b HTTP/1.1\r\nhost: a\r\n%b%b" % (target, lines, framing), target, headers, body


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_requests_come_out_as_they_were_put_in(
    asked: list[tuple[bytes, bytes, dict[bytes, bytes], bytes]], data: st.DataObject
) -> None:
    raw = b"".join(one for one, *_ in asked)
    places = data.draw(st.lists(st.integers(0, len(raw)), max_size=10))
    result = Result(cut_at(raw, places))
    assert result.status is None
    assert not result.reader.is_mid_request()
    assert len(result.requests) == len(asked)
    for request, (_, target, headers, body) in zip(result.requests, asked, strict=True):
        assert request.target == target
        assert request.headers.items() >= headers.items()
        assert request.body == body


def alike(pieces: list[bytes]) -> Result:
    """What these bytes give, each piece in one read; and byte by byte, where no head is known."""
    result = Result(pieces)
    assert result == Result(bytewise(b"".join(pieces)))
    return result


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_what_comes_again_and_again_is_read_as_if_for_the_first_time(message: Message) -> None:
    alike([message.raw] * 4)


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message.name)
def test_what_comes_after_a_known_head_is_read_as_without_it(message: Message) -> None:
    known = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"
    alike([known, message.raw, known, message.raw])
    alike([message.raw, known, message.raw, known])


def test_mutants_of_a_known_head_are_read_as_without_it() -> None:
    known = b"POST /a HTTP/1.1\r\nhost: a\r\nContent-Length: 12\r\nx: y\r\n\r\n" + b"x" * 12
    for mutant in mutants(FUZZ_SHORT, seed=5, of=known):
        alike([known, mutant, known])


LENGTHS = [b"3", b"03", b"+3", b"-3", b" 3", b"3 ", b"3,3", b"", b"3\r\nx: y", b"0x3", b"3" * 30]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("body", [b"abc", b"", b"abcPOST / HTTP/1.1\r\n"])
def test_a_length_is_what_the_parser_takes_it_for(length: bytes, body: bytes) -> None:
    known = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: %b\r\n\r\n%b"
    alike([known % (b"2", b"ab"), known % (length, body), known % (b"1", b"a")])


@given(st.lists(st.binary(max_size=40), min_size=2, max_size=6))
def test_bodies_of_all_lengths_may_follow_one_head(bodies: list[bytes]) -> None:
    head = b"POST /a HTTP/1.1\r\nhost: a\r\nContent-Length: %d\r\nx: y\r\n\r\n%b"
    result = alike([head % (len(body), body) for body in bodies])
    assert [request.body for request in result.requests] == bodies
    assert all(request.known is not None for request in result.requests[1:])


def test_a_body_over_the_limit_is_refused_behind_a_known_head() -> None:
    head = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b"
    over = BODY_BYTES + 1
    assert alike([head % (1, b"a"), head % (over, b"a" * over)]).status == 413


def test_heads_that_are_always_new_are_not_remembered_for_ever() -> None:
    head = b"POST /a HTTP/1.1\r\nhost: a\r\nx: %d\r\ncontent-length: 1\r\n\r\na"
    result = alike([head % n for n in range(NEW_HEADS_MAX + 2)] + [head % 0] * 2)
    assert not any(request.known for request in result.requests)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_at_all_are_read_or_refused(pieces: list[bytes]) -> None:
    assert Result(pieces).status in (None, 400)


@pytest.mark.parametrize("over", range(-40, 41))
def test_a_head_near_its_limit_is_judged_alike_however_it_is_cut(over: int) -> None:
    head = b"POST /v1 HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nx-b: 2\r\ncookie: \r\n\r\n"
    raw = head.replace(b"cookie: ", b"cookie: " + b"c" * (HEAD_BYTES - len(head) + over))
    whole = Result([raw])
    assert Result(bytewise(raw)) == whole
    assert Result([raw[:HEAD_BYTES], raw[HEAD_BYTES:]]) == whole
    if over > 0:
        assert whole.status == 431


def test_a_head_is_announced_before_its_body_and_once() -> None:
    heard = Heard()
    reader = RequestReader(heard, Limits, Buffered(1 << 30))
    reader.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r")
    assert heard.heads == []
    assert reader.is_reading_head()
    reader.feed(b"\n")
    assert len(heard.heads) == 1
    assert reader.is_reading_body()
    assert reader.unfinished() is heard.heads[0]
    reader.feed(b"abc")
    assert not reader.is_mid_request()
    assert reader.unfinished() is None
    assert heard.requests == heard.heads


def test_a_body_that_nobody_wants_is_read_over_and_not_kept() -> None:
    heard = Heard(wants_body=False)
    reader = RequestReader(heard, Limits, Buffered(1 << 30))
    reader.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900\r\n\r\n" + b"x" * 900)
    reader.feed(b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n")
    assert [(r.target, r.body, r.body_bytes) for r in heard.requests] == [
        (b"/", b"", 900),
        (b"/next", b"", 0),
    ]


def test_a_body_that_nobody_wants_still_has_a_limit() -> None:
    reader = RequestReader(Heard(wants_body=False), Limits, Buffered(1 << 30))
    reader.feed(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    with pytest.raises(MessageError, match="longer than 1000 bytes") as refused:
        reader.feed(b"3e9\r\n" + b"x" * 1001)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("head", "expects"),
    [
        (b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-Continue\r\ncontent-length: 3\r\n\r\n", True),
        (b"POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n", False),
    ],
)
def test_only_http_1_1_can_expect_a_100(head: bytes, expects: bool) -> None:
    heard = Heard()
    RequestReader(heard, Limits, Buffered(1 << 30)).feed(head)
    assert heard.heads[0].expects_continue is expects


def test_bodies_are_counted_while_they_are_held() -> None:
    heard, buffered = Heard(), Buffered(100)
    reader = RequestReader(heard, Limits, buffered)
    reader.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc")
    reader.feed(b"def")
    assert buffered.bytes == 6
    reader.feed(b"ghi")
    assert buffered.bytes == 9
    heard.requests[0].drop_body()
    assert buffered.bytes == 0


def test_what_a_long_body_comes_in_is_not_copied() -> None:
    class Large(Limits):
        body_bytes = 1_000_000

    heard = Heard()
    reader = RequestReader(heard, Large, Buffered(1 << 30))
    pieces = [bytes([n]) * 100_000 for n in range(4)]
    reader.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 400003\r\n\r\nabc")
    for piece in pieces:
        reader.feed(piece)
    (request,) = heard.requests
    assert [id(piece) for piece in request.pieces[1:]] == [id(piece) for piece in pieces]
    assert request.body == b"abc" + b"".join(pieces)


@pytest.mark.parametrize("length", [b"content-length: 9\r\n", b""])
def test_nothing_is_read_once_the_connection_has_ended(length: bytes) -> None:
    heard, buffered = Heard(), Buffered(100)
    reader = RequestReader(heard, Limits, buffered)
    for piece in (b"POST / HTTP/1.1\r\nhost: a\r\n%b\r\n" % length, b"abc"):
        reader.feed(piece)
        reader.ended = True  # as whoever refuses a request sets it
    reader.feed(b"defghiGET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert len(heard.heads) == 1
    assert buffered.bytes == 0


class Deaf(Heard):
    """Takes no request at all."""

    def request_head(self, request: Request) -> None:
        super().request_head(request)
        raise MessageError(400, "no more")


def test_nothing_is_read_behind_a_head_that_was_refused() -> None:
    reader = RequestReader(Deaf(), Limits, Buffered(100))
    with pytest.raises(MessageError, match="no more"):
        reader.feed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    reader.ended = True
    reader.feed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert reader.unfinished() is not None


def test_a_body_for_which_there_is_no_memory_is_refused() -> None:
    reader = RequestReader(Heard(), Limits, Buffered(5))
    reader.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabcde")
    with pytest.raises(MessageError, match="longer than 5 bytes together") as refused:
        reader.feed(b"f")
    assert refused.value.status == 503


def test_a_body_that_nobody_wants_takes_no_memory() -> None:
    buffered = Buffered(5)
    reader = RequestReader(Heard(wants_body=False), Limits, buffered)
    reader.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabcdefghi")
    assert buffered.bytes == 0


def test_a_body_in_tiny_chunks_is_held_in_few_objects() -> None:
    class Large(Limits):
        body_bytes = 1_000_000

    heard = Heard()
    reader = RequestReader(heard, Large, Buffered(1 << 30))
    reader.feed(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(100):
        reader.feed(b"2\r\nab\r\n" * 1000)
    (request,) = heard.heads
    assert len(request.pieces) <= 2
    assert request.body == b"ab" * 100_000


class Broken(Heard):
    """A receiver with a bug."""

    def __init__(self, *, in_head: bool) -> None:
        super().__init__()
        self.in_head = in_head

    def request_head(self, request: Request) -> None:
        if self.in_head:
            raise RuntimeError("a bug of ours")

    def request_complete(self, request: Request) -> None:
        raise RuntimeError("a bug of ours")


@pytest.mark.parametrize("in_head", [True, False])
@pytest.mark.parametrize("last", [b"", b"connection: close\r\n"])
def test_a_bug_in_the_receiver_is_not_taken_for_a_fault_of_the_client(
    in_head: bool, last: bytes
) -> None:
    reader = RequestReader(Broken(in_head=in_head), Limits, Buffered(1 << 30))
    with pytest.raises(Exception, match="callback") as failed:
        reader.feed(b"GET / HTTP/1.1\r\nhost: a\r\n" + last + b"\r\n")
    assert not isinstance(failed.value, MessageError)
    assert "a bug of ours" in "".join(traceback.format_exception(failed.value))


def test_a_refusal_says_what_was_wrong_in_lower_case_and_never_the_value() -> None:
    for message in BAD:
        reader = RequestReader(Heard(), Limits, Buffered(1 << 30))
        with pytest.raises(MessageError) as refused:
            reader.feed(message.raw)
        assert refused.value.reason.startswith("HTTP/") or refused.value.reason[0].islower()
        assert str(refused.value) == refused.value.reason
        assert len(refused.value.reason) < 120
