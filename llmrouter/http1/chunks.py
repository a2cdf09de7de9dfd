"""The chunks of a body whose length nobody knows beforehand (RFC 9112, 7.1): one at a time.

Nearly every event of a stream is one short chunk, and comes in one read.
"""

from typing import Final

_SIZE_LINES: Final = [b"%x\r\n" % size for size in range(2048)]
_FRAME_BYTES_MIN: Final = 5
"""A digit and two line ends."""


def framed(data: bytes) -> bytes:
    """Return `data` as one chunk; it must not be empty, or it would be the last one."""
    size = len(data)
    if size < len(_SIZE_LINES):
        return _SIZE_LINES[size] + data + b"\r\n"
    return b"%x\r\n%b\r\n" % (size, data)


def only_chunk(read: bytes) -> bytes:
    """Return the data of the one short chunk that `read` is; b"" where it is anything else.

    b"" also where its size has capitals, or zeros before it: most servers write neither.
    """
    size = len(read) - _FRAME_BYTES_MIN
    if size >= 16:
        size -= 1 if size <= 256 else 2  # its second digit, or its second and third
    if not 0 < size < len(_SIZE_LINES):
        return b""
    line = _SIZE_LINES[size]
    end = len(line) + size
    if len(read) != end + 2 or not read.startswith(line) or not read.endswith(b"\r\n"):
        return b""
    return read[len(line) : end]
