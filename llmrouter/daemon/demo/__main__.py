"""The demo as a process: `python -P -m llmrouter.daemon.demo FD`.

FD is a listening socket that was inherited, Unix or TCP. The process ends when its standard input
does, so it does not outlive the supervisor that holds the other end, and at SIGTERM. It ignores
SIGINT, which a terminal sends to the supervisor and to it alike.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import time

import uvloop

from llmrouter.daemon.demo.server import DemoServer

BACKLOG = 4_096
_USAGE = "usage: python -P -m llmrouter.daemon.demo FD   (FD: a listening socket, inherited)\n"
_READ_BYTES = 4_096
_STDIN = 0


def main(arguments: list[str]) -> int:
    """Serve until told to stop; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        (descriptor,) = arguments
        listener = socket.socket(fileno=int(descriptor))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{_USAGE}llmrouter demo: {error}\n")
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, listener:
        return runner.run(serve(listener))


async def serve(listener: socket.socket) -> int:
    """Serve what is accepted on `listener` until standard input or SIGTERM ends it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        loop.add_reader(_STDIN, _end_with_input, loop, stop)
    except PermissionError:
        sys.stderr.write("llmrouter demo: standard input cannot be watched; give it a pipe\n")
        return 2
    demo = DemoServer(time.time)  # noqa: TID251 - answers tell when they were made
    server = await _listen(listener, demo)
    gc.collect()
    gc.freeze()
    await stop.wait()
    loop.remove_reader(_STDIN)
    server.close()
    demo.abort()
    await demo.emptied()
    return 0


async def _listen(listener: socket.socket, demo: DemoServer) -> asyncio.AbstractServer:
    loop = asyncio.get_running_loop()
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(demo.protocol, sock=listener, backlog=BACKLOG)
    return await loop.create_server(demo.protocol, sock=listener, backlog=BACKLOG)


def _end_with_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(_STDIN, _READ_BYTES):
        loop.remove_reader(_STDIN)
        stop.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
