"""llmrouter: the single entrance to an organisation's language models."""

__version__ = "0.1.0"
