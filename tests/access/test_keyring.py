import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.access.issued import IssuedKey, KeyTerms
from llmrouter.access.key import KeyDigest, new_key_text
from llmrouter.access.keybook import KeyBook
from llmrouter.access.keyring import Keyring
from llmrouter.access.mapping import ModelMap
from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal
from llmrouter.errors import ClientError, ExpiredKey, InvalidKey, RevokedKey
from llmrouter.stores.memory import MemoryStore

DIGEST = KeyDigest(b"k" * 32)
NOW_S = 1_000_000.5
TERMS = KeyTerms(
    org="acme",
    team="research",
    user="ada",
    models=("gpt-4o*",),
    model_map={"gpt-4": "gpt-4o"},
    expires_in_s=60,
)


def issue(terms: KeyTerms = TERMS) -> tuple[IssuedKey, bytes]:
    key, text = KeyBook(MemoryStore(), DIGEST).create(terms, NOW_S)
    return key, text.encode()


def keyring_of(*keys: IssuedKey) -> Keyring:
    keyring = Keyring(DIGEST)
    keyring.apply(keys)
    return keyring


def refusal(keyring: Keyring, text: bytes, now_s: float = NOW_S) -> ClientError:
    with pytest.raises(ClientError) as caught:
        keyring.authenticate(text, now_s)
    return caught.value


def test_a_key_stands_for_its_principal() -> None:
    """FR-001."""
    key, text = issue()

    assert keyring_of(key).authenticate(text, NOW_S) == Principal(
        org="acme",
        team="research",
        user="ada",
        key_id=key.id,
        models=ModelPatterns(("gpt-4o*",)),
        model_map=ModelMap({"gpt-4": "gpt-4o"}),
    )


def test_the_principal_is_built_once() -> None:
    key, text = issue()
    keyring = keyring_of(key)

    assert keyring.authenticate(text, NOW_S) is keyring.authenticate(text, NOW_S)


def test_a_wrong_secret_and_an_unknown_id_cost_the_same_and_say_the_same() -> None:
    """SC-002: a refusal does not tell which ids exist."""
    digested: list[bytes] = []

    def counting(text: bytes) -> bytes:
        digested.append(text)
        return DIGEST(text)

    key, text = issue()
    keyring = Keyring(counting)
    keyring.apply([key])
    wrong_secret = text[:-1] + (b"a" if text[-1:] != b"a" else b"b")
    unknown_id = new_key_text().encode()

    refusals = [refusal(keyring, wrong_secret), refusal(keyring, unknown_id)]

    assert [type(error) for error in refusals] == [InvalidKey, InvalidKey]
    assert refusals[0].message == refusals[1].message
    assert digested == [wrong_secret, unknown_id]


def test_text_of_another_shape_is_refused_before_any_digest() -> None:
    def never(text: bytes) -> bytes:
        raise AssertionError(text)

    keyring = Keyring(never)

    for text in (b"", b"sk-lr-x", b"sk-proj-" + b"x" * 54, b"x" * 10_000_000):
        assert isinstance(refusal(keyring, text), InvalidKey)


@given(st.binary(max_size=80) | st.binary(min_size=56, max_size=56).map(lambda b: b"sk-lr-" + b))
def test_random_bytes_never_authenticate_nor_raise_anything_else(text: bytes) -> None:
    """SC-002."""
    assert type(refusal(ONE_KEY, text)) is InvalidKey


ONE_KEY = keyring_of(issue()[0])


@given(st.integers(0, 61), st.integers(0, 255))
def test_a_text_that_differs_in_one_byte_is_refused(at: int, byte: int) -> None:
    """SC-002."""
    changed = bytearray(TEXT)
    changed[at] = byte if byte != changed[at] else byte ^ 1

    assert type(refusal(KEYRING, bytes(changed))) is InvalidKey


KEY, TEXT = issue()
KEYRING = keyring_of(KEY)


def test_a_key_made_under_another_digest_key_is_none_of_ours() -> None:
    key, text = issue()
    keyring = Keyring(KeyDigest(b"o" * 32))
    keyring.apply([key])

    assert type(refusal(keyring, text)) is InvalidKey


def test_a_key_is_refused_from_its_expiry_on() -> None:
    key, text = issue()
    keyring = keyring_of(key)

    assert keyring.authenticate(text, 1_000_059.999).org == "acme"
    error = refusal(keyring, text, 1_000_060.0)
    assert isinstance(error, ExpiredKey)
    assert error.message == "the key expired at 1970-01-12T13:47:40Z; ask your admin for a new one"


def test_a_revoked_key_is_refused_from_the_next_request_on() -> None:
    key, text = issue()
    keyring = keyring_of(key)
    assert keyring.authenticate(text, NOW_S).key_id == key.id

    keyring.apply([msgspec.structs.replace(key, revoked_at_s=1_000_000)])

    error = refusal(keyring, text)
    assert isinstance(error, RevokedKey)
    assert error.message.startswith("the key was revoked at 1970-01-12T13:46:40Z")
    assert len(keyring) == 1


def test_a_change_of_any_key_can_be_told_from_none() -> None:
    """Whoever authenticated before it must be looked at again."""
    key, text = issue()
    keyring = Keyring(DIGEST)
    assert keyring.changes == 0

    keyring.apply([key])
    keyring.authenticate(text, NOW_S)
    assert keyring.changes == 1

    keyring.apply([msgspec.structs.replace(key, revoked_at_s=1_000_000)])
    assert keyring.changes == 2


def test_only_the_holder_of_the_secret_learns_that_a_key_ended() -> None:
    key, text = issue()
    keyring = keyring_of(msgspec.structs.replace(key, revoked_at_s=1))

    assert type(refusal(keyring, text[:-43] + b"0" * 43)) is InvalidKey
    assert type(refusal(keyring_of(key), text[:-43] + b"0" * 43, 1e12)) is InvalidKey


@pytest.mark.parametrize("changes", [{}, {"revoked_at_s": 1}, {"expires_at_s": 2}])
def test_no_refusal_repeats_any_part_of_the_key(changes: dict[str, int]) -> None:
    key, text = issue()
    wrong = text[:-4] + b"0000"
    keyring = keyring_of(msgspec.structs.replace(key, **changes))

    shown = refusal(keyring, wrong).message
    if changes:
        shown += refusal(keyring, text).message

    assert key.id not in shown
    assert "sk-lr" not in shown
    assert text[19:27].decode() not in shown


def test_repr_shows_the_size_only() -> None:
    assert repr(keyring_of(issue()[0], issue()[0])) == "<Keyring keys=2>"


def test_a_key_is_found_by_its_id_with_what_speaks_against_it() -> None:
    key, text = issue()
    keyring = keyring_of(key)

    assert keyring.find(key.id, NOW_S) == (keyring.authenticate(text, NOW_S), None)
    assert keyring.find("0" * 12, NOW_S) is None

    found = keyring.find(key.id, NOW_S + 61)
    assert found is not None
    assert isinstance(found[1], ExpiredKey)
    assert str(found[1]) == str(refusal(keyring, text, NOW_S + 61))

    keyring.apply([msgspec.structs.replace(key, revoked_at_s=int(NOW_S))])
    found = keyring.find(key.id, NOW_S)
    assert found is not None
    assert isinstance(found[1], RevokedKey)
