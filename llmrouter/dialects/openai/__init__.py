"""The OpenAI dialect: chat completions, completions, embeddings and responses.

Source of the wire form: OpenAI's API reference and openapi.yaml, and the recorded traffic of
compatible servers, which differ in what they leave out; so nothing is demanded here that is not
needed to route, to count and to know that an answer is whole.
"""

from llmrouter.dialects.openai.dialect import OpenAI

__all__ = ["OpenAI"]
