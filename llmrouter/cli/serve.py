"""`llmrouter serve`: run the daemon in the foreground, until a signal says to stop."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from llmrouter.cli.options import CONFIG_DEFAULT, ConfigPath, refusals
from llmrouter.config.load import load
from llmrouter.config.schema import Config
from llmrouter.daemon import logs
from llmrouter.daemon.state import State, open_state

if TYPE_CHECKING:
    from llmrouter.daemon.supervisor import Supervisor

STATE_WAIT_S = 2.0
"""For a command that has the state open in this moment; a running daemon keeps it for longer."""
_log = logging.getLogger(__name__)


def serve(config: ConfigPath = CONFIG_DEFAULT) -> None:
    """Serve, in the foreground, until SIGTERM or Ctrl-C; both drain first, twice stops at once.

    Example: llmrouter serve --config /etc/llmrouter/router.toml
    """
    with refusals():
        loaded = load(config)
        os.umask(0o077)
        logs.configure("supervisor")
        with open_state(Path(loaded.state), wait_s=STATE_WAIT_S) as state:
            uvloop.run(_serve(loaded, state))


async def _serve(config: Config, state: State) -> None:
    from llmrouter.daemon.supervisor import Supervisor  # all of the daemon: 0.1 s

    await Supervisor(config, state).run(_announce)
    _log.info("stopped")


def _announce(supervisor: "Supervisor") -> None:
    _log.info(
        "serving addresses=%s admin=%s pid=%d path=%s",
        ",".join(supervisor.addresses),
        ",".join(supervisor.admin_addresses),
        os.getpid(),
        "compiled" if importlib.util.find_spec("llmrouter.native__mypyc") else "interpreted",
    )
