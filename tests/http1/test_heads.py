import pytest

from llmrouter.http1 import heads
from llmrouter.http1.errors import MessageError
from llmrouter.http1.request import LENGTH_DIGITS_MAX, Request

BODY_BYTES_MAX = 1_000
HEAD_BYTES_MAX = 1_000


def request(headers: dict[bytes, bytes]) -> Request:
    made = Request(b"/v1")
    made.method = b"POST"
    made.headers = headers
    return made


HOST = {b"host": b"a"}


@pytest.mark.parametrize(
    ("version", "headers", "chunked", "minor_version", "expects_continue"),
    [
        ("1.1", HOST, False, 1, False),
        ("1.1", HOST | {b"content-length": b"1000"}, False, 1, False),
        ("1.1", HOST | {b"transfer-encoding": b"Chunked"}, True, 1, False),
        ("1.1", HOST | {b"expect": b"100-Continue"}, False, 1, True),
        ("1.0", HOST | {b"expect": b"100-continue"}, False, 0, False),
        ("1.0", {}, False, 0, False),
    ],
)
def test_what_is_fit_to_be_served(
    version: str,
    headers: dict[bytes, bytes],
    chunked: bool,
    minor_version: int,
    expects_continue: bool,
) -> None:
    made = request(headers)
    assert heads.check(made, version, BODY_BYTES_MAX) is chunked
    assert (made.minor_version, made.expects_continue) == (minor_version, expects_continue)


@pytest.mark.parametrize(
    ("version", "headers", "status", "said"),
    [
        ("2.0", HOST, 400, "HTTP/2.0 is not served"),
        ("0.9", HOST, 400, "HTTP/0.9 is not served"),
        ("1.1", {}, 400, "exactly one host header"),
        ("1.1", {b"host": b"a, b"}, 400, "exactly one host header"),
        ("1.0", {b"host": b"a, b"}, 400, "exactly one host header"),
        ("1.1", HOST | {b"transfer-encoding": b"gzip"}, 400, "only transfer coding"),
        ("1.1", HOST | {b"transfer-encoding": b"gzip, chunked"}, 400, "only transfer coding"),
        ("1.0", HOST | {b"transfer-encoding": b"chunked"}, 400, "only transfer coding"),
        ("1.1", HOST | {b"content-length": b"1001"}, 413, "longer than 1000 bytes"),
        ("1.1", HOST | {b"expect": b"a miracle"}, 400, "only expectation"),
    ],
)
def test_what_is_not(version: str, headers: dict[bytes, bytes], status: int, said: str) -> None:
    with pytest.raises(MessageError, match=said) as refused:
        heads.check(request(headers), version, BODY_BYTES_MAX)
    assert refused.value.status == status


RAW = b"POST /v1 HTTP/1.1\r\nhost: a\r\nContent-Length: 3\r\nx: y\r\n\r\nabc"
READ = HOST | {b"content-length": b"3", b"x": b"y"}


def test_a_head_that_is_known_reads_others_like_it() -> None:
    known = heads.known(request(READ), RAW, HEAD_BYTES_MAX)
    assert known is not None
    found = known.read(RAW.replace(b": 3", b": 5") + b"de")
    assert found is not None
    read, body = found
    assert (read.method, read.target, body) == (b"POST", b"/v1", b"abcde")
    assert read.headers == READ | {b"content-length": b"5"}


def closing() -> Request:
    made = request(READ)
    made.keep_alive = False
    return made


def expecting() -> Request:
    made = request(READ)
    made.expects_continue = True
    return made


@pytest.mark.parametrize(
    ("made", "raw", "head_bytes_max"),
    [
        pytest.param(closing(), RAW, HEAD_BYTES_MAX, id="ends its connection"),
        pytest.param(expecting(), RAW, HEAD_BYTES_MAX, id="waits to be told to go on"),
        pytest.param(request(READ), RAW + b"GET ", HEAD_BYTES_MAX, id="is not all that came"),
        pytest.param(request(READ), RAW[:-1], HEAD_BYTES_MAX, id="is not there yet"),
        pytest.param(
            request(HOST), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", HEAD_BYTES_MAX, id="has no length"
        ),
        pytest.param(
            request(READ),
            RAW,
            len(RAW) - len(b"abc") + LENGTH_DIGITS_MAX - 1,
            id="could be too long with a longer length",
        ),
    ],
)
def test_no_head_is_known_of_what(made: Request, raw: bytes, head_bytes_max: int) -> None:
    assert heads.known(made, raw, head_bytes_max) is None
