"""What several commands share: their options, and how a refusal is told."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from llmrouter.config.problems import ConfigError
from llmrouter.daemon.errors import DaemonError

ConfigPath = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="LLMROUTER_CONFIG", help="The configuration file."),
]
CONFIG_DEFAULT = Path("router.toml")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what can be refused into a message on standard error and exit status 1."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            print(f"llmrouter: {problem}", file=sys.stderr)
        raise typer.Exit(1) from None
    except DaemonError as error:
        print(f"llmrouter: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
