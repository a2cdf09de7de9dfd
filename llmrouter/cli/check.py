"""`llmrouter check`: whether a router.toml would be served, and what would run."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath
from llmrouter.cli.overview import overview
from llmrouter.cli.unpriced import price_notes
from llmrouter.config.credentials import credentials
from llmrouter.config.effective import effective, effective_toml
from llmrouter.config.load import load, workers
from llmrouter.config.notes import notes
from llmrouter.config.problems import ConfigError, Problem
from llmrouter.config.schema import Config, Tls
from llmrouter.daemon.listeners import ListenError, tls_context


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    ok: bool
    """Whether `serve` would take the file."""
    file: str
    """The file as it was named."""
    workers: int | None = None
    """How many workers would run; null for a file that is refused."""
    config: dict[str, object] | None = None
    """Every setting with its value, defaults included; null for a file that is refused."""
    problems: tuple[Problem, ...] = ()
    """Why the file is refused."""
    notes: tuple[Problem, ...] = ()
    """What is allowed, but worth a look."""


def check(
    config: ConfigPath = CONFIG_DEFAULT,
    show_effective: Annotated[
        bool,
        typer.Option("--effective", help="Print the complete TOML, with every default."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check router.toml, and show what would run.

    Exit status 0 means that `serve` would take it, 1 that it would refuse. Models that a budget
    would have to pay for and that have no price are noted.

    Example: llmrouter check --config /etc/llmrouter/router.toml
    """
    try:
        loaded = load(config)
        credentials(loaded, os.environ)
        if (tls := loaded.server.tls) is not None:
            _check_tls(config, tls)
    except ConfigError as error:
        _refuse(config, error, as_json)
        raise typer.Exit(1) from None
    noted = [*notes(loaded), *price_notes(loaded)]
    if as_json:
        typer.echo(_json(_report(loaded, noted)))
    elif show_effective:
        typer.echo(effective_toml(loaded), nl=False)
        _lines(noted, err=True)
    else:
        _lines([*overview(loaded), *_noted(noted), "", "ok"])


def _check_tls(file: Path, tls: Tls) -> None:
    """Refuse what `serve` would refuse: a certificate and key that are no pair, or no PEM."""
    try:
        tls_context(tls.cert, tls.key)
    except ListenError as error:
        raise ConfigError([Problem(str(file), "server.tls", str(error))]) from None


def _refuse(file: Path, error: ConfigError, as_json: bool) -> None:
    if as_json:
        typer.echo(_json(Report(ok=False, file=str(file), problems=error.problems)))
    else:
        _lines(error.problems, err=True)


def _report(config: Config, noted: Iterable[Problem]) -> Report:
    return Report(
        ok=True,
        file=str(config.file),
        workers=workers(config.server),
        config=effective(config),
        notes=tuple(noted),
    )


def _json(report: Report) -> str:
    return msgspec.json.format(msgspec.json.encode(report)).decode()


def _noted(noted: Iterable[Problem]) -> list[str]:
    return ["", "notes", *(f"  {note}" for note in noted)] if noted else []


def _lines(lines: Iterable[object], *, err: bool = False) -> None:
    for line in lines:
        typer.echo(str(line), err=err)
