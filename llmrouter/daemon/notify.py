"""What systemd is told of us: `Type=notify` units, sd_notify(3)."""

import os
import socket
from collections.abc import Mapping

VARIABLE = "NOTIFY_SOCKET"
READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whoever started us; False, and nothing done, if nobody wants to know.

    Raises OSError if the socket that was named does not take it.
    """
    address = environ.get(VARIABLE, "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket, as the protocol writes it
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(address)
        client.sendall(state.encode())
    return True
