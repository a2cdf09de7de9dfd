import msgspec
import pytest

from llmrouter.access.issued import IssuedKey, KeyChanges, KeyTerms
from llmrouter.access.key import KeyDigest, new_key_text
from llmrouter.access.keybook import KeyBook, UnknownKey
from llmrouter.access.keyring import Keyring
from llmrouter.access.ruletext import parse_limit
from llmrouter.contracts.store import StoreError
from llmrouter.errors import RevokedKey
from llmrouter.stores.memory import MemoryStore

DIGEST = KeyDigest(b"k" * 32)
LIMIT = parse_limit("requests=60/minute")
MAP = {"gpt-4": "gpt-4o"}
TERMS = KeyTerms(
    org="acme",
    name="ci",
    models=("gpt-4o*",),
    model_map=MAP,
    expires_in_s=60,
    rules=(LIMIT,),
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def book(store: MemoryStore) -> KeyBook:
    return KeyBook(store, DIGEST)


def test_a_created_key_holds_its_terms_and_opens_the_door(book: KeyBook) -> None:
    """FR-001."""
    key, text = book.create(TERMS, now_s=1000.9)

    assert key == IssuedKey(
        id=text[6:18],
        digest=DIGEST(text.encode()).hex(),
        org="acme",
        name="ci",
        models=("gpt-4o*",),
        model_map=MAP,
        created_at_s=1000,
        expires_at_s=1060,
        rules=(LIMIT,),
    )
    assert book.get(key.id) == key
    keyring = Keyring(DIGEST)
    keyring.apply(book.keys())
    assert keyring.authenticate(text.encode(), 1001.0).key_id == key.id


def test_the_text_of_a_key_is_nowhere_in_the_store(book: KeyBook, store: MemoryStore) -> None:
    _, text = book.create(TERMS, now_s=0)

    kept = b"".join(name.encode() + value for name, value in store.items(""))

    assert text[18:].encode() not in kept


def test_keys_are_listed_oldest_first(book: KeyBook, store: MemoryStore) -> None:
    created = [book.create(TERMS, now_s)[0] for now_s in (3, 1, 2)]
    store.put("bucket/acme", b"not a key")

    assert book.keys() == sorted(created, key=lambda key: key.created_at_s)


def test_a_key_is_found_by_its_id(book: KeyBook) -> None:
    key, _ = book.create(TERMS, now_s=0)

    assert book.get(key.id) == key


def test_a_revoked_key_stays_revoked_since_the_first_time(book: KeyBook) -> None:
    key, text = book.create(TERMS, now_s=0)

    revoked = book.revoke(key.id, now_s=10.7)

    assert revoked == msgspec.structs.replace(key, revoked_at_s=10)
    assert book.revoke(key.id, now_s=20) == revoked
    assert book.get(key.id) == revoked
    keyring = Keyring(DIGEST)
    keyring.apply(book.keys())
    with pytest.raises(RevokedKey):
        keyring.authenticate(text.encode(), 11)


def test_a_change_is_kept(book: KeyBook) -> None:
    key, text = book.create(TERMS, now_s=0)
    raised = parse_limit("requests=100/minute")

    changed = book.update(key.id, KeyChanges(rules=(raised,), expires_in_s=None), now_s=10)

    assert changed == msgspec.structs.replace(key, rules=(raised,), expires_at_s=None)
    assert book.keys() == [changed]
    keyring = Keyring(DIGEST)
    keyring.apply(book.keys())
    assert keyring.authenticate(text.encode(), 1e9).key_id == key.id


def test_a_change_that_is_refused_changes_nothing(book: KeyBook) -> None:
    key, _ = book.create(TERMS, now_s=0)
    raised = parse_limit("requests=100/minute")

    with pytest.raises(ValueError, match="no limit or budget 'usd/day'"):
        book.update(key.id, KeyChanges(rules=(raised,), remove=("usd/day",)), now_s=1)
    assert book.get(key.id) == key


def test_a_revoked_key_is_not_changed(book: KeyBook) -> None:
    key, _ = book.create(TERMS, now_s=0)
    revoked = book.revoke(key.id, now_s=1)

    with pytest.raises(ValueError, match="was revoked at"):
        book.update(key.id, KeyChanges(expires_in_s=None), now_s=2)
    assert book.get(key.id) == revoked


def test_an_unknown_id_is_not_changed(book: KeyBook, store: MemoryStore) -> None:
    with pytest.raises(UnknownKey, match="no key has the id '0123456789AB'"):
        book.update("0123456789AB", KeyChanges(name="x"), now_s=0)
    assert list(store.items("")) == []


def test_an_unknown_id_is_said_to_be_unknown(book: KeyBook) -> None:
    with pytest.raises(UnknownKey, match="no key has the id '0123456789AB'; `llmrouter keys list`"):
        book.revoke("0123456789AB", now_s=0)


@pytest.mark.parametrize("given", ["", "short", "\udcff", "a\nb", "../../etc/x", new_key_text()])
def test_what_is_no_id_is_not_repeated(book: KeyBook, given: str) -> None:
    """People paste the key itself where its id is asked for."""
    with pytest.raises(UnknownKey) as caught:
        book.get(given)

    assert str(caught.value) == (
        "that is not the id of a key: an id is 12 letters and digits,"
        " as `llmrouter keys list` shows; never give the key itself"
    )


def test_an_id_that_is_taken_is_not_given_twice(store: MemoryStore) -> None:
    drawn = iter([b"a" * 16, b"s" * 32, b"a" * 16, b"t" * 32, b"b" * 16, b"u" * 32])
    book = KeyBook(store, DIGEST, lambda _: next(drawn))

    first, _ = book.create(TERMS, now_s=0)
    second, _ = book.create(TERMS, now_s=0)

    assert first.id != second.id
    assert book.get(first.id) == first


def test_a_random_source_that_repeats_ends_in_an_error(store: MemoryStore) -> None:
    book = KeyBook(store, DIGEST, bytes)
    book.create(TERMS, now_s=0)

    with pytest.raises(RuntimeError, match="the random source repeats"):
        book.create(TERMS, now_s=0)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x80\x04.",
        b"{}",
        b'{"id": "0123456789AB"}',
        msgspec.json.encode(
            {"id": "A" * 12, "digest": "00" * 32, "org": "a", "created_at_s": 0, "newer": 1}
        ),
    ],
)
def test_a_damaged_row_is_named_and_not_skipped(
    book: KeyBook, store: MemoryStore, value: bytes
) -> None:
    store.put("key/AAAAAAAAAAAA", value)

    for read in (book.keys, lambda: book.get("A" * 12), lambda: book.revoke("A" * 12, 0)):
        with pytest.raises(StoreError, match=r"'key/AAAAAAAAAAAA' .* cannot be read as a key"):
            read()


def test_a_row_under_another_name_is_refused(book: KeyBook, store: MemoryStore) -> None:
    key, _ = book.create(TERMS, now_s=0)
    value = store.get(f"key/{key.id}")
    assert value is not None
    store.put("key/BBBBBBBBBBBB", value)

    with pytest.raises(StoreError, match=f"'key/BBBBBBBBBBBB' .* holds the key '{key.id}'"):
        book.get("B" * 12)


# ---- by its id, or by its text ----------------------------------------------------------------


def test_a_key_is_found_by_its_id_and_by_its_text(book: KeyBook) -> None:
    key, text = book.create(TERMS, 1000)

    assert book.find(key.id) == book.find(text) == key


@pytest.mark.parametrize("wrong", ["secret", "id", "prefix", "shape", "bytes", "nobody's id"])
def test_a_key_that_is_not_ours_is_unknown_and_not_repeated(book: KeyBook, wrong: str) -> None:
    key, text = book.create(TERMS, 1000)
    other = new_key_text()
    texts = {
        "secret": text[:-1] + ("a" if text[-1] != "a" else "b"),
        "id": other,
        "prefix": "pk" + text[2:],
        "shape": f"{key.id}!",
        "bytes": text[:8] + "\udcff" + text[9:],
        "nobody's id": "0" * 12,
    }

    with pytest.raises(UnknownKey) as caught:
        book.find(texts[wrong])

    if wrong != "nobody's id":
        assert key.id not in str(caught.value)
        assert texts[wrong] not in str(caught.value)
