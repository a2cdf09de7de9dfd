import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.access.key import DIGEST_KEY_BYTES, KeyDigest, is_id, new_key_text, read_id

TEXT = re.compile(r"sk-lr-[0-9A-Za-z]{12}-[0-9A-Za-z]{43}")


def test_a_thousand_keys_have_the_documented_shape_and_no_two_share_an_id() -> None:
    texts = [new_key_text() for _ in range(1000)]

    assert all(TEXT.fullmatch(text) for text in texts)
    assert len({read_id(text.encode()) for text in texts}) == 1000


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_every_random_value_gives_a_text_of_the_same_shape(id_: bytes, secret: bytes) -> None:
    drawn = iter((id_, secret))

    assert TEXT.fullmatch(new_key_text(lambda _: next(drawn)))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_no_bit_of_the_secret_is_lost(one: bytes, other: bytes) -> None:
    def text(secret: bytes) -> str:
        return new_key_text(lambda count: secret if count == 32 else bytes(count))

    assert (text(one) == text(other)) == (one == other)


@given(st.binary(min_size=DIGEST_KEY_BYTES, max_size=DIGEST_KEY_BYTES), st.binary(max_size=200))
def test_the_digest_is_hmac_sha_256(digest_key: bytes, text: bytes) -> None:
    assert KeyDigest(digest_key)(text) == hmac.digest(digest_key, text, "sha256")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_digest_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {length}"):
        KeyDigest(bytes(length))


def test_the_digest_does_not_show_its_key() -> None:
    assert "x" * 8 not in repr(KeyDigest(b"x" * 32))


def test_the_id_is_read_out_of_a_text() -> None:
    text = b"sk-lr-0123456789AB-" + b"s" * 43

    assert read_id(text) == b"0123456789AB"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"sk-lr-",
        b"sk-lr-0123456789AB",
        b"sk-lr-0123456789AB-" + b"s" * 42,
        b"sk-lr-0123456789AB-" + b"s" * 44,
        b"sk-lr-0123456789AB_" + b"s" * 43,
        b"sk-xx-0123456789AB-" + b"s" * 43,
        b"SK-LR-0123456789AB-" + b"s" * 43,
        b"s" * 1_000_000,
    ],
    ids=lambda text: f"{text[:24]!r}+{len(text)}",
)
def test_no_id_is_read_out_of_another_shape(text: bytes) -> None:
    assert read_id(text) is None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("0123456789AB", True),
        ("0123456789A", False),
        ("0123456789AB\n", False),
        ("0123456789A-", False),
        ("0123456789Aé", False),
    ],
)
def test_ids_are_twelve_letters_and_digits(text: str, is_one: bool) -> None:
    assert is_id(text) is is_one
