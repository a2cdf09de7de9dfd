"""The command as a whole: its help, its usage errors, and what it takes from the environment."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner, Result

from llmrouter.cli import main
from llmrouter.cli.main import app


def commands(group: object, *above: str) -> Iterator[tuple[str, ...]]:
    """Every command that does something, by its words."""
    below = getattr(group, "commands", None)
    if below is None or getattr(group, "invoke_without_command", False):
        yield above
    if below is None:
        return
    for name, command in below.items():
        yield from commands(command, *above, name)


COMMANDS = list(commands(typer.main.get_command(app)))


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environ})


def test_these_are_the_commands() -> None:
    assert sorted(map(" ".join, COMMANDS)) == [
        "check", "demo", "events", "explain", "keys create", "keys list", "keys revoke",
        "keys show", "keys update", "orgs list", "orgs show", "serve", "usage", "usage reconcile",
    ]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_shows_an_example(words: tuple[str, ...]) -> None:
    done = run(*words, "--help")

    assert done.exit_code == 0
    assert f"Example: llmrouter {' '.join(words)}" in " ".join(done.stdout.split())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_and_argument_says_what_it_is_for(words: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]  # it is a group
    undocumented = [
        parameter.name for parameter in command.params if not getattr(parameter, "help", None)
    ]

    assert undocumented == []


@pytest.mark.parametrize(
    "words", [(), ("keys",), ("orgs",)], ids=["llmrouter", "llmrouter keys", "llmrouter orgs"]
)
def test_a_group_alone_shows_what_there_is(words: tuple[str, ...]) -> None:
    done = run(*words)

    assert done.exit_code == 2
    for command in COMMANDS:
        if command[: len(words)] == words:
            assert command[len(words)] in done.output


@pytest.mark.parametrize(
    "words",
    [("fly",), ("keys", "fly"), ("serve", "--fly"), ("keys", "show"), ("keys", "create"),
     ("keys", "create", "--org"), ("keys", "show", "one", "two"), ("orgs", "show"),
     ("demo", "--port", "high")],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_understood_is_a_usage_error(words: tuple[str, ...]) -> None:
    done = run(*words)

    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error" in done.stderr


@pytest.mark.parametrize("words", [("serve",), ("check",), ("keys", "list")], ids=" ".join)
def test_the_file_is_named_by_option_or_environment_or_stands_here(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMROUTER_CONFIG", raising=False)

    asked = [
        run(*words, "--config", "one.toml", LLMROUTER_CONFIG="two.toml"),
        run(*words, "-c", "one.toml"),
        run(*words, LLMROUTER_CONFIG="two.toml"),
        run(*words),
    ]

    names = ("one.toml", "one.toml", "two.toml", "router.toml")
    for done, name in zip(asked, names, strict=True):
        assert done.exit_code == 1
        assert done.stdout == ""
        assert f"{name}: no such file" in done.stderr


def test_the_entry_point_runs_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["llmrouter", "--help"])

    with pytest.raises(SystemExit) as ended:
        main.run()

    assert ended.value.code == 0
    assert "serve" in capsys.readouterr().out


def test_a_command_loads_the_path_of_a_call_only_if_it_needs_it() -> None:
    """Half of what a command that asks a running daemon costs would be importing what serves."""
    show = "import sys, llmrouter.cli.main; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)

    loaded = done.stdout.split()
    assert "llmrouter.daemon.administer" in loaded
    assert not {"llmrouter.daemon.supervisor", "llmrouter.gateway.pipeline"} & set(loaded)
