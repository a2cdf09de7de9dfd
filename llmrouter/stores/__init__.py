"""The stores: leaves that keep named bytes, each behind `contracts.store.Store`.

`diskcache` is the embedded one, for a node of its own; `memory` is for tests and forgets. One file
each, which imports its product and nothing else of ours but the contract. A new store is a file
here and a line in the table of `tests/stores/test_contract.py`, which holds all of them to the
same promises.
"""
