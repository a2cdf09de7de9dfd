"""The command `llmrouter` and its subcommands."""

import typer

from llmrouter.cli.check import check
from llmrouter.cli.demo import demo
from llmrouter.cli.events import events
from llmrouter.cli.explain import explain
from llmrouter.cli.keys import keys
from llmrouter.cli.orgs import orgs
from llmrouter.cli.serve import serve
from llmrouter.cli.usage import usage

app = typer.Typer(
    name="llmrouter",
    help="The single entrance to an organisation's language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(serve)
app.command()(check)
app.add_typer(keys, name="keys")
app.add_typer(orgs, name="orgs")
app.add_typer(usage, name="usage")
app.command()(events)
app.command()(explain)
app.command()(demo)


def run() -> None:
    """Run the command that the arguments name."""
    app()
