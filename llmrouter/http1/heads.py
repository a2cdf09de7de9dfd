"""What makes a request fit to be served, besides what llhttp sees to; and heads that come again.

Refused here: versions other than 1.0 and 1.1, a missing or repeated Host, any transfer coding but
`chunked` (and that in HTTP/1.0), any expectation but `100-continue`, and bodies that say themselves
that they are over their limit.
"""

import re
from typing import Final

from llmrouter.http1.errors import MessageError
from llmrouter.http1.request import LENGTH_DIGITS_MAX, KnownHead, Request

END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)(?=\r\n)", re.IGNORECASE)


def check(request: Request, version: str, body_bytes_max: int) -> bool:
    """Refuse a request that is not one to be served; whether its body is chunked.

    Raises MessageError. Sets what the head says of version and expectation.
    """
    _check_version(request, version)
    headers = request.headers
    chunked = False
    if (coding := headers.get(b"transfer-encoding")) is not None:
        _check_coding(request, coding)
        chunked = True
    elif int(headers.get(b"content-length", b"0")) > body_bytes_max:
        raise body_too_large(body_bytes_max)
    if b"expect" in headers:
        _read_expectation(request)
    return chunked


def known(request: Request, data: bytes, head_bytes_max: int) -> KnownHead | None:
    """The head of `request`, if that is all of `data` and asks for nothing but to be answered."""
    if not request.keep_alive or request.expects_continue:
        return None
    end = data.find(END) + len(END)
    lengths = list(_LENGTH.finditer(data, 0, end))
    if len(lengths) != 1 or end + LENGTH_DIGITS_MAX > head_bytes_max:
        return None
    start, stop = lengths[0].span(1)
    head = KnownHead(request, data[:start], data[stop:end])
    return None if head.read(data) is None else head


def body_too_large(limit: int) -> MessageError:
    """What is said of a body over its limit."""
    return MessageError(413, f"the body is longer than {limit} bytes")


def _check_version(request: Request, version: str) -> None:
    if version == "1.0":
        request.minor_version = 0
    elif version != "1.1":
        raise MessageError(400, f"HTTP/{version} is not served; use HTTP/1.1")
    host = request.headers.get(b"host")
    if (host is None and request.minor_version == 1) or (host is not None and b"," in host):
        raise MessageError(400, "exactly one host header is needed")


def _check_coding(request: Request, coding: bytes) -> None:
    if coding.lower() != b"chunked" or request.minor_version == 0:
        raise MessageError(400, "the only transfer coding served is chunked, in HTTP/1.1")


def _read_expectation(request: Request) -> None:
    if request.headers[b"expect"].lower() != b"100-continue":
        raise MessageError(400, "the only expectation served is 100-continue")
    request.expects_continue = request.minor_version == 1
