"""Tokens of the demo, and its prose: the same words give the same text, wherever and whenever."""

import zlib
from collections.abc import Iterable, Iterator

import msgspec

TOKEN_CHARS = 4
PICTURE_TOKENS = 85
OPENING = "This is the demo upstream of llmrouter."

_QUOTE_CHARS_MAX = 120
_WORDS_LEAST = 20
_WORDS_SPAN = 41
_SENTENCES = (
    "Nothing here comes from a model.",
    "The same question always gets the same answer.",
    "Every word of it was counted before it left.",
    "The tokens that you are told of are the tokens that were sent.",
    "A real deployment would have thought about it for longer.",
    "Ask again with another name and it will be slow, or fail, or stop half-way.",
    "What you read came over an ordinary connection.",
    "It costs nothing, whatever the price list says.",
    "Your key was checked before any of this was written.",
    "Point your client at a provider when you are ready.",
    "The weather in this answer is always fair.",
    "Some of these sentences may come twice.",
)
_FILLING = " ".join(_SENTENCES) + " "


def count(text: str) -> int:
    """How many tokens `text` is."""
    return -(-len(text) // TOKEN_CHARS)


def count_raw(raws: Iterable[msgspec.Raw]) -> int:
    """How many tokens JSON is that is part of a prompt, such as tools; by its bytes."""
    return -(-sum(len(bytes(raw)) for raw in raws) // TOKEN_CHARS)


def pieces(text: str) -> Iterator[str]:
    """Each token of `text`; joined they are the text."""
    return (text[at : at + TOKEN_CHARS] for at in range(0, len(text), TOKEN_CHARS))


def prose(said: str, choice: int) -> str:
    """Answer `said` in whole sentences, 20 to some 60 words beside the quotation."""
    seed = zlib.crc32(said.encode()) + choice
    sentences = [OPENING, _quotation(said)]
    words = len(OPENING.split())
    wanted = _WORDS_LEAST + seed % _WORDS_SPAN
    while words < wanted:
        sentence = _SENTENCES[seed % len(_SENTENCES)]
        sentences.append(sentence)
        words += sentence.count(" ") + 1
        seed += 1
    return " ".join(sentences)


def prose_of_length(text: str, chars: int) -> str:
    """Continue or cut `text` so that it has exactly `chars` characters."""
    if len(text) < chars:
        text += " " + _FILLING * ((chars - len(text)) // len(_FILLING) + 1)
    return text[:chars]


def _quotation(said: str) -> str:
    start = said[: 4 * _QUOTE_CHARS_MAX].split()
    if not start:
        return "You said nothing."
    return f"You said: {' '.join(start)[:_QUOTE_CHARS_MAX]}."
