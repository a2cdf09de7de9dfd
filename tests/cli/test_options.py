"""How a command that cannot be done says so."""

import pytest
import typer

from llmrouter.cli.options import refusals
from llmrouter.config.problems import ConfigError, Problem
from llmrouter.daemon.control import ControlError
from llmrouter.daemon.errors import StartError
from llmrouter.daemon.listeners import ListenError
from llmrouter.daemon.state import StateBusy, StateError


@pytest.mark.parametrize(
    "error",
    [
        StateError("the state is damaged"),
        StateBusy("the state is in use by process 7"),
        ListenError("cannot listen on 127.0.0.1:80"),
        StartError("the workers do not start"),
        ControlError("unknown_key", "no key has the id 'x'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_is_one_line_on_standard_error_and_status_1(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, refusals():
        raise error

    assert ended.value.exit_code == 1
    assert capsys.readouterr() == ("", f"llmrouter: {error}\n")


def test_each_problem_of_a_configuration_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem("router.toml", "a.b", "is wrong"), Problem("router.toml", "", "is old")]

    with pytest.raises(typer.Exit) as ended, refusals():
        raise ConfigError(problems)

    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert said == "llmrouter: router.toml: a.b: is wrong\nllmrouter: router.toml: is old\n"


def test_a_bug_is_not_dressed_up_as_a_refusal() -> None:
    with pytest.raises(ZeroDivisionError), refusals():
        raise ZeroDivisionError


def test_what_can_be_done_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with refusals():
        done = True

    assert done
    assert capsys.readouterr() == ("", "")
