"""Administration by the command line: the same operations, with the daemon up or down.

A desk does them on an open state: behind the supervisor's control socket (`operations`), or here
while no daemon runs (`alone`).
"""

import time
from pathlib import Path

from llmrouter.config.schema import Config
from llmrouter.daemon import control
from llmrouter.daemon.control import NotRunning
from llmrouter.daemon.state import StateBusy, control_path

_HANDOVER_S = 10.0
"""How long a daemon may take between opening the state and answering on its control socket."""


def administer(config: Config, op: str, args: dict[str, object]) -> object:
    """Do `op` through the daemon of `config.state`, or on that state itself; blocks.

    Raises ControlError if it is refused, StateError if the state cannot be used.
    """
    state = Path(config.state)
    deadline = time.monotonic() + _HANDOVER_S
    while True:
        try:
            return control.ask(control_path(state), op, args)
        except NotRunning:
            from llmrouter.daemon.alone import do_alone  # most of the daemon: 60 ms of importing

            try:
                return do_alone(config, op, args)
            except StateBusy:
                # Somebody has just taken the state and does not answer yet, or no longer.
                if time.monotonic() > deadline:
                    raise
