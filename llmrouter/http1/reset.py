"""Ending a connection so that the other side cannot take it for an orderly end."""

import asyncio
import socket
import struct

_NO_LINGER = struct.pack("ii", 1, 0)
"""`struct linger` that makes close(2) drop what is unsent and send a reset."""


def reset(transport: asyncio.Transport) -> None:
    """Drop the connection with a reset: aborting alone closes a socket as if all had been said."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
