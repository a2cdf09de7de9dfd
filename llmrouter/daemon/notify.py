"""What systemd is told of us: `Type=notify` units, sd_notify(3)."""

import logging
import os
import socket
from collections.abc import Mapping

_log = logging.getLogger(__name__)

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


def tell(state: str) -> None:
    """The same; where it fails that is said in the log, as nothing else depends on it."""
    try:
        notify(state)
    except OSError as error:
        _log.warning("the service manager cannot be told %s: %s", state, error.strerror)
