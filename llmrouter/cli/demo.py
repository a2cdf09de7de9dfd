"""`llmrouter demo`: the whole daemon on a temporary state, with a key, in one command."""

import http.client
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import tomli_w
import typer
import uvloop
from rich.console import Console

from llmrouter.cli.options import refusals
from llmrouter.config.load import load
from llmrouter.config.schema import Config
from llmrouter.daemon import logs
from llmrouter.daemon.administer import administer
from llmrouter.daemon.errors import StartError
from llmrouter.daemon.state import State, open_state
from llmrouter.dialects.openai.samples import sample_calls

if TYPE_CHECKING:
    from llmrouter.daemon.supervisor import Supervisor

_PORT = 4000
_QUESTION = "What is llmrouter?"
_SETTINGS = {
    "upstreams": {"demo": {"url": "builtin:demo"}},
    "models": {
        "demo": {"deployments": [{"upstream": "demo"}]},
        "demo-*": {"deployments": [{"upstream": "demo"}]},
    },
    "orgs": {"demo": {}},
}


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Event(msgspec.Struct):
    choices: list[_Choice]


_read_event = msgspec.json.Decoder(_Event).decode


def demo(
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help=f"Where to listen; default {_PORT}, or any if that is taken."
        ),
    ] = None,
) -> None:
    """Try it: a temporary state, a key, the daemon, and one streamed answer; until Ctrl-C.

    Example: llmrouter demo
    """
    os.umask(0o077)
    with tempfile.TemporaryDirectory(prefix="llmrouter-demo-") as directory, refusals():
        config = load(_write_config(Path(directory), _free_port() if port is None else port))
        created = administer(config, "keys.create", {"org": "demo", "name": "demo"})
        key = msgspec.convert(created, dict[str, object])["key"]
        console = Console(highlight=False)
        log = Path(directory) / "demo.log"
        with _logging_to(log), open_state(Path(config.state), wait_s=1) as state:
            uvloop.run(_serve(config, state, console, str(key)))
    print("stopped; the temporary state is gone.")


@contextmanager
def _logging_to(log: Path) -> Iterator[None]:
    """Send standard error, ours and that of our children, to a file; show it if nothing starts."""
    terminal = os.dup(2)
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    writer = logs.configure("supervisor")
    try:
        yield
    except StartError:
        writer.close()
        os.write(terminal, log.read_bytes())
        raise
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


async def _serve(config: Config, state: State, console: Console, key: str) -> None:
    from llmrouter.daemon.supervisor import Supervisor  # all of the daemon: 0.1 s

    def greet(supervisor: "Supervisor") -> None:
        show = partial(_show, console, supervisor.addresses[0], key, str(state.path))
        threading.Thread(target=show, name="demo", daemon=True).start()

    await Supervisor(config, state).run(greet)


def _write_config(directory: Path, port: int) -> Path:
    path = directory / "router.toml"
    listen = f"127.0.0.1:{port}"
    server = {"listen": listen, "admin_listen": "127.0.0.1:0", "workers": 1}
    path.write_text(tomli_w.dumps({"server": server, **_SETTINGS}))
    return path


def _free_port() -> int:
    """The usual port, or 0 (any) where somebody has that."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _PORT))
        except OSError:
            return 0
    return _PORT


def _show(console: Console, address: str, key: str, state: str) -> None:
    """Make one streamed call, as any client would, then say how to make more."""
    console.print(
        f"llmrouter serves on [bold]http://{address}[/bold]; its state is {state}\n", soft_wrap=True
    )
    console.print(f"[dim]you:[/dim]  {_QUESTION}\n[dim]demo:[/dim] ", end="")
    try:
        for piece in _ask(address, key):
            console.print(piece, end="", markup=False, soft_wrap=True)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        console.print(f"\nthe call failed: {error}")
    sample = sample_calls(f"http://{address}/v1", key, "demo")
    text = f"\n\nTry it yourself:\n\n{sample}\n\nCtrl-C stops it."
    console.print(text, markup=False, soft_wrap=True)


def _ask(address: str, key: str) -> Iterator[str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    body = msgspec.json.encode(
        {
            "model": "demo",
            "stream": True,
            "messages": [{"role": "user", "content": _QUESTION}],
        }
    )
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        raise http.client.HTTPException(f"status {response.status}: {response.read()!r}")
    for line in response:
        data = line.strip().removeprefix(b"data: ")
        if data and data != b"[DONE]":
            yield from (choice.delta.content or "" for choice in _read_event(data).choices)
    connection.close()
