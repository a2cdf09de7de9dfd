"""`python -m llmrouter`: the same as the command `llmrouter`."""

from llmrouter.cli.main import run

if __name__ == "__main__":
    run()
