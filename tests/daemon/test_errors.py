"""What stops a command is told in words, and so has to be an error that a command tells."""

import pytest

from llmrouter.daemon.control import ControlError
from llmrouter.daemon.errors import DaemonError, StartError
from llmrouter.daemon.listeners import ListenError
from llmrouter.daemon.state import StateBusy, StateError


@pytest.mark.parametrize("error", [StartError, ListenError, StateError, StateBusy, ControlError])
def test_what_a_command_may_meet_is_told_and_no_traceback(error: type[Exception]) -> None:
    assert issubclass(error, DaemonError)
