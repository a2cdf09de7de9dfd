"""Unix sockets under paths of any length: a socket address itself holds 107 bytes."""

import errno
import os
import socket
import stat
from pathlib import Path

_ADDRESS_BYTES_MAX = 107


def address(path: Path) -> str:
    """A text that reaches `path` and fits into a socket address.

    For a longer path the directory is opened, for the life of the process, and reached through
    /proc; raises OSError where there is none.
    """
    text = str(path)
    if len(text.encode()) <= _ADDRESS_BYTES_MAX:
        return text
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{directory}/{path.name}"


def listen(path: Path, *, mode: int, backlog: int) -> socket.socket:
    """Listen at `path`, replacing a socket that a dead process left there.

    Raises OSError where something else stands there, or somebody still listens.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(address(path))
        path.chmod(mode)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _clear(path: Path) -> None:
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "there is something else than a socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # whoever listens there may accept nothing
        result = probe.connect_ex(address(path))
    if result == errno.ECONNREFUSED:
        path.unlink()
    elif result in (0, errno.EAGAIN):
        raise OSError(errno.EADDRINUSE, "another process listens there", str(path))
    else:
        raise OSError(result, os.strerror(result), str(path))
