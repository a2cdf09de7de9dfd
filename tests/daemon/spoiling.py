"""Damage to a state; each gives a pattern of the words in which it is told."""

from llmrouter.daemon.state import State


def damaged_event(state: State) -> str:
    state.store.put("event/x", b"x")
    return "'event/x' in the store is not the name of an event"


def damaged_bucket(state: State) -> str:
    state.store.put("bucket/org/acme/usd/total", b"x")
    return "'bucket/org/acme/usd/total' in the store cannot be read as"


def damaged_key(state: State) -> str:
    state.store.put("key/AAAAAAAAAAAA", b"{}")
    return "'key/AAAAAAAAAAAA' in the store cannot be read as a key"


def damaged_journal(state: State) -> str:
    (state.journal_dir / "0-1.jsonl").mkdir()
    return "the journal .*is a directory"
