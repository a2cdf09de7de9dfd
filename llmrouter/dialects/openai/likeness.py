"""What the events of one stream have in common, so that most of them need no walk.

Nearly every event of a paced stream is the one before it with another text in the same string.
Where all else is the same bytes, and the text holds nothing that could end its string or needs an
escape, the one is whole JSON of the same shape as the other. To see that costs a fifth of a walk.
Invariant: what is known is plain by the walk too; what is not known may be so all the same.
"""

from typing import Final

VAIN_MAX: Final = 4
"""So many lessons in a row that no event bore out, and no more are taken."""
LEARNED_BYTES_MAX: Final = 2048
"""Of an event that is kept to learn from: one with a whole picture in it is not."""
TEXTS_MAX: Final = 3
"""How many strings may differ: the text, and such as padding that hides its length."""
TEXT_BYTES_MAX: Final = 128
"""Of a string that differs: what is longer is walked over as soon."""


class Likeness:
    """Of the plain events of one stream."""

    __slots__ = ("_before", "_beginning", "_between", "_end", "_vain")

    def __init__(self) -> None:
        self._before = b""
        """The last event that was learned from."""
        self._beginning = b""
        """What all have in common before the first text that differs; b"" while none is known."""
        self._between: list[bytes] | None = None
        """The same from each text to the next; None where only one differs."""
        self._end = b""
        self._vain = 0

    def knows(self, event: bytes) -> bool:
        """Whether it is one event, plain as those before it are."""
        beginning, end = self._beginning, self._end
        if (
            not beginning
            or not event.startswith(beginning)
            or not event.endswith(end)
            or len(event) < len(beginning) + len(end)
        ):
            return False
        text = event[len(beginning) : len(event) - len(end)]
        if self._between is not None:
            for joint in self._between:
                at = text.find(joint)
                if at < 0 or not _is_text(text[:at]):
                    return False
                text = text[at + len(joint) :]
        if not _is_text(text):
            return False
        self._vain = 0
        return True

    def learn(self, event: bytes) -> None:
        """Take note of a plain event that was not known."""
        if self._vain == VAIN_MAX or len(event) > LEARNED_BYTES_MAX or not _is_one_line(event):
            return
        before, self._before = self._before, event
        if before and before != event:
            self._vain += 1
            common = _common_of(before, event)
            if common:
                self._beginning, self._end = common[0], common[-1]
                self._between = common[1:-1] or None


def _is_text(text: bytes) -> bool:
    """Whether it may stand in a string as it is."""
    if len(text) > TEXT_BYTES_MAX:
        return False
    for place in range(len(text)):
        byte = text[place]
        if byte < 0x20 or byte == 0x22 or byte == 0x5C:  # control, quote, backslash
            return False
    return True


def _is_one_line(event: bytes) -> bool:
    """Whether it is one line of data, its quotes all those of strings."""
    return (
        event.startswith(b"data:")
        and event.find(b"\n") == len(event) - 2
        and event.endswith(b"\n\n")
        and event.find(b"\r") < 0
        and event.find(b"\\") < 0
    )


def _common_of(one: bytes, other: bytes) -> list[bytes]:
    """What two events have in common around the strings that differ.

    [] where anything else differs, a name, or too many strings.
    """
    common: list[bytes] = []
    while one != other:
        start = one.rfind(b'"', 0, _same_bytes(one, other)) + 1
        end, others_end = one.find(b'"', start), other.find(b'"', start)
        quotes = one.count(b'"', 0, start)
        if common:
            quotes += 1  # what follows a text begins with the quote that ends it
        is_value = quotes % 2 == 1 and not one[end + 1 :].lstrip().startswith(b":")
        if not is_value or end < 0 or others_end < 0 or len(common) == TEXTS_MAX:
            return []
        common.append(one[:start])
        one, other = one[end:], other[others_end:]
    return [*common, one] if common else []


def _same_bytes(one: bytes, other: bytes) -> int:
    """How many bytes the two begin with are the same."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if other.startswith(one[:middle]):
            least = middle
        else:
            most = middle - 1
    return least
